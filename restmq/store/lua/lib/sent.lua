-- Elements in flight: sent to instances of live consumers, and not taken by any socket yet.
local Sent = {}
-- Notes that these were sent, each with `handed`. owner: an instance, or * for a broadcast.
function Sent.note(elements, owner)
  local words = {}
  for at, one in ipairs(elements) do
    words[2 * at - 1] = one.number
    words[2 * at] = owner..' '..one.handed..' '..one.added_at..' '..one.length
  end
  call('HSET', K.sent, unpack(words))
  Waiting.remove(elements)
  Q.special = true
end
-- Elements that did not arrive wait again, at the place of their keys. They count as handed out once more, but not as a
-- failed try. Numbers that are not in flight are passed over. Answers how many were given back.
function Sent.give_back(numbers)
  if #numbers == 0 then return 0 end
  local back = 0
  for at, sent in ipairs(call('HMGET', K.sent, unpack(numbers))) do
    if sent then
      local number = numbers[at]
      local owner, handed = string.match(sent, '^(%S+) (%d+)')
      call('HDEL', K.sent, number)
      if owner == '*' then call('ZREM', K.unconfirmed, number) else Element.forget_sent(number, owner) end
      local tries = Element.tries(number)
      tries.handed, tries.owner = tonumber(handed), '-'
      Element.set_tries(number, tries)
      Waiting.add_again(number)
      back = back + 1
    end
  end
  return back
end
function Sent.arrived(numbers)   -- some socket has taken them: they leave the queue
  if #numbers == 0 then return end
  local ids, gone = {}, {}
  for at, sent in ipairs(call('HMGET', K.sent, unpack(numbers))) do
    if sent then
      local owner, added_at, length = string.match(sent, '^(%S+) %d+ (%d+) (%d+)$')
      gone[#gone + 1] = numbers[at]
      ids[#ids + 1] = numbers[at]..'-'..added_at
      Q.bytes = Q.bytes - tonumber(length)
      if owner ~= '*' then Element.forget_sent(numbers[at], owner) end
    end
  end
  if #gone == 0 then return end
  call('XDEL', K.stream, unpack(ids))
  for _, key in ipairs({K.sent, K.tries, K.apart}) do call('HDEL', key, unpack(gone)) end
  if Q.due > 0 then call('ZREM', K.expiring, unpack(gone)) end
  Q.delivered = Q.delivered + #gone
end
