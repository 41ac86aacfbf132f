-- Leases the oldest waiting elements: they are hidden until they are acknowledged or given back, or the lease ends.
-- Arguments: how many; ms of the lease; options as JSON or '': limit, instance, first as in taking.lua.
-- Returns {epoch, number, count, value, how often it was handed out, number… and, last and alone, 1 as in take.lua}.
verb('lease', FREES, function(args)
  local most, ms, options = tonumber(args[2]), tonumber(args[3]), args[4]
  if not Q.packed and options == '' then return {''} end
  Queue.begin()
  local o = options ~= '' and cjson.decode(options) or {}
  local stop = Stops.refusal('pull')
  if stop and not o.instance then return stop end
  local answer, got, more, _ = {Queue.epoch() or ''}, 0, false
  if not stop then
    got, _, more = Taking.each_page(most, o.limit, function(elements, all_tries)
      Waiting.remove(elements)
      for _, one in ipairs(elements) do
        local tries, at = all_tries[one.number], #answer
        tries.handed, tries.owner = tries.handed + 1, '-'
        answer[at + 1], answer[at + 2], answer[at + 3] = one.number, tostring(tries.shown), one.value
        answer[at + 4] = tries.handed
      end
      Leases.grant(elements, all_tries, ms)
    end)
  end
  if more then answer[#answer + 1] = 1 end
  if not more then Taking.finish(o, got) elseif o.instance then Waiters.wake(0) end
  Queue.save()
  return answer
end)
