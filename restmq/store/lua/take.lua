-- Takes the oldest waiting elements out of the queue.
-- Arguments: how many; options as JSON or ''.
--   options: limit, instance, first as in taking.lua; full: also return what untake needs
-- Returns number, count, value, number, count, value… With `full` the epoch comes first, and each element has a fourth
-- word. Last and alone comes 1 when there may be more, so that the caller should call again: a thousand were looked at,
-- or, without options, a MiB was reached.
local LIMIT = 1048576   -- bytes of values in one answer; the last value may exceed that
local function take_plain(most)   -- the fast way: nothing is special
  local ids, answer, from, size, page = {}, {}, digits(Q.cursor + 1), 0
  repeat   -- a few at a time, because values may be large
    page = call('XRANGE', K.stream, from, '+', 'COUNT', math.min(16, most - #ids))
    for _, entry in ipairs(page) do
      local at, value = #ids + 1, entry[2][2]
      ids[at] = entry[1]
      answer[3 * at - 2], answer[3 * at - 1], answer[3 * at] = string.match(entry[1], '^%d+'), '0', value
      size = size + #value
      if size >= LIMIT then break end
    end
    from = '('..(ids[#ids] or '')
  until #page < 16 or #ids >= most or size >= LIMIT
  if #ids == 0 then return answer end
  if size >= LIMIT and #ids < most then answer[#answer + 1] = 1 end
  Q.bytes, Q.taken = Q.bytes - size, Q.taken + #ids
  call('XDEL', K.stream, unpack(ids))
  Queue.store()
  return answer
end
local function for_untake(one, tries)   -- the fourth word: what brings it back as it was
  return one.added_at..' '..(one.ends or '0')..' '..tries.handed..' '..tries.shown..' '..tries.failed..tries.errors
end
verb('take', FREES, function(args)
  local most, options = tonumber(args[2]), args[3]
  if options == '' then
    if not Q.packed then return {} end
    if Q.flags % 4 < 2 and Q.flags < 64 then return take_plain(most) end
  end
  Queue.begin()
  local o = options ~= '' and cjson.decode(options) or {}
  local stop = Stops.refusal('pull')
  if stop and not o.instance then return stop end
  local answer, got, full, more = o.full and {Queue.epoch() or ''} or {}, 0, false, false
  if not stop then
    got, full, more = Taking.each_page(most, o.limit or LIMIT, function(elements, all_tries)
      for _, one in ipairs(elements) do
        local tries, at = all_tries[one.number], #answer
        answer[at + 1], answer[at + 2], answer[at + 3] = one.number, tostring(tries.shown), one.value
        if o.full then answer[at + 4] = for_untake(one, tries) end
        Element.drop_waiting(one, tries)
        Q.taken = Q.taken + 1
      end
    end)
  end
  if more or (full and options == '' and got < most) then answer[#answer + 1] = 1 end
  if not more then Taking.finish(o, got) elseif o.instance then Waiters.wake(0) end
  Queue.save()
  return answer
end)
