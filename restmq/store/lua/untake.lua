-- Brings back an element that was taken for a GET whose client had left: nobody has seen it.
-- Arguments: epoch, number, value, the fourth word of take, a unique id of this bringing back.
-- Returns 1; or 0 when the queue was forgotten since, or Redis came back with data from before the take.
-- An element that was purged meanwhile stays away and counts as purged.
verb('untake', FREES, function(args)
  local epoch, number, value, noted, id = unpack(args, 2, 6)
  Queue.begin()
  if Queue.epoch() ~= epoch then return 0 end
  -- The instance asks again when the answer was lost. A second time must change nothing: somebody may have it by now.
  if not call('SET', Keys.brought_back(id), '', 'NX', 'PX', 120000) then return 1 end
  if tonumber(number) > Q.last or Element.find(number) then return 0 end   -- Redis lost the take
  if tonumber(number) <= Queue.counted('emptied') then
    Q.taken = Q.taken - 1
    Queue.count('purged', 1)
    Queue.save()
    return 1
  end
  local added_at, ends, handed, shown, failed, errors = string.match(noted, '^(%d+) (%d+) (%d+) (%d+) (%d+)(.*)$')
  call('HSET', K.apart, number, added_at..' '..value)
  Element.set_tries(number, {handed = tonumber(handed), shown = tonumber(shown), failed = tonumber(failed), owner = '-',
    errors = errors})
  if ends ~= '0' then
    call('ZADD', K.expiring, ends, number)
    Queue.due_at(tonumber(ends))
  end
  Q.bytes, Q.taken = Q.bytes + #value, Q.taken - 1
  Waiting.add_again(number)
  Delivery.go_on()
  Queue.save()
  return 1
end)
