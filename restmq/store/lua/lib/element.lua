-- One element: finding, counting and forgetting it. Its number is passed as a string of digits.
local Element = {}
local function look_up(command, key, numbers)   -- number -> text, from a hash (HMGET) or a zset (ZMSCORE)
  local found = {}
  in_thousands(numbers, function(from, to)
    for at, text in ipairs(call(command, key, unpack(numbers, from, to))) do
      if text then found[numbers[from + at - 1]] = text end
    end
  end)
  return found
end
function Element.find(number)   -- value, ms of adding, whether it lies apart; nil when it is not there
  local entry = call('XRANGE', K.stream, number, number, 'COUNT', 1)[1]
  if entry then return entry[2][2], string.match(entry[1], '%-(%d+)$'), false end
  local kept = Q.special and call('HGET', K.apart, number)
  if not kept then return end
  local gap = string.find(kept, ' ', 1, true)
  return string.sub(kept, gap + 1), string.sub(kept, 1, gap - 1), true
end

-- How often it was handed out, shown by get, and failed; whose live consumer leases it; a line for each error.
local function read_tries(text)
  if not text then return {handed = 0, shown = 0, failed = 0, owner = '-', errors = ''} end
  local handed, shown, failed, owner, errors = string.match(text, '^(%d+) (%d+) (%d+) (%S+)(.*)$')
  return {handed = tonumber(handed), shown = tonumber(shown), failed = tonumber(failed), owner = owner, errors = errors}
end
local function tries_text(tries)   -- nil when there is nothing to note
  if tries.owner == '-' and tries.errors == '' and tries.handed + tries.shown + tries.failed == 0 then return end
  return tries.handed..' '..tries.shown..' '..tries.failed..' '..tries.owner..tries.errors
end
function Element.tries(number) return read_tries(Q.special and call('HGET', K.tries, number)) end
function Element.set_tries(number, tries)
  Q.special = true
  local text = tries_text(tries)
  if text then call('HSET', K.tries, number, text) else call('HDEL', K.tries, number) end
end
function Element.tries_of(numbers)   -- number -> its tries
  local tries, texts = {}, Q.special and look_up('HMGET', K.tries, numbers) or {}
  for _, number in ipairs(numbers) do tries[number] = read_tries(texts[number]) end
  return tries
end

function Element.set_apart(number)   -- moves its value out of the stream
  local value, added_at, apart = Element.find(number)
  if apart then return end
  call('XDEL', K.stream, number..'-'..added_at)
  call('HSET', K.apart, number, added_at..' '..value)
  Q.special = true
end
function Element.forget_sent(number, instance)   -- it is not in flight to that instance any more
  if call('SREM', Keys.held(instance), number) == 1 then return end
  for _, name in ipairs(call('LRANGE', K.lost, 0, -1)) do call('SREM', K.prefix..name, number) end
end

-- Drops the value. `one`: number, added_at, length, and apart: whether it lies apart.
local function drop_value(one)
  if one.apart then call('HDEL', K.apart, one.number) else call('XDEL', K.stream, one.number..'-'..one.added_at) end
  Q.bytes = Q.bytes - one.length
end
function Element.drop_waiting(one, tries)   -- drops the value of one that waits, and all that is noted of it
  drop_value(one)
  if tries_text(tries) then call('HDEL', K.tries, one.number) end
  if one.again then call('ZREM', K.again, one.number) end
  if one.ends then call('ZREM', K.expiring, one.number) end
end
-- Drops the values of many leased elements, and all that is noted of them. `elements`: each as for drop_value().
function Element.drop_leased(elements, ends)
  local numbers, expiring = {}, {}
  for at, one in ipairs(elements) do
    drop_value(one)
    numbers[at] = one.number
    if ends[one.number] then expiring[#expiring + 1] = one.number end
  end
  in_thousands(numbers, function(from, to)
    call('ZREM', K.leased, unpack(numbers, from, to))
    call('HDEL', K.tries, unpack(numbers, from, to))
  end)
  in_thousands(expiring, function(from, to) call('ZREM', K.expiring, unpack(expiring, from, to)) end)
end
local function drop_notes(number, length)   -- drops all that is noted of one, in any state
  Queue.free(Element.tries(number).owner, number)
  call('HDEL', K.tries, number)
  call('HDEL', K.own_ttl, number)
  for _, key in ipairs({K.again, K.expiring, K.leased, K.delayed}) do call('ZREM', key, number) end
  if call('ZREM', K.dead, number) == 1 then Queue.count('gb', -length) end
  local sent = call('HGET', K.sent, number)
  if not sent then return end
  call('HDEL', K.sent, number)
  local holder = string.match(sent, '^%S+')
  if holder == '*' then
    call('ZREM', K.unconfirmed, number)
  else
    Element.forget_sent(number, holder)
    Queue.free(holder, number)
  end
end
function Element.delete(number)   -- whether it was there
  local value, added_at, apart = Element.find(number)
  if not value then return false end
  drop_value({number = number, added_at = added_at, length = #value, apart = apart})
  if Q.special then drop_notes(number, #value) end
  return true
end

-- An element that has ended is not there, even before a sweep.
local function ends_of(numbers)   -- number -> ms at which its ttl ends
  return Q.special and Q.due > 0 and look_up('ZMSCORE', K.expiring, numbers) or {}
end
function Element.expire(number, ends)   -- whether its ttl is over; then it is deleted. `ends`: as in ends_of()
  if not ends or tonumber(ends) > now() then return false end
  if Element.delete(number) then Queue.count('expired', 1) end
  return true
end
function Element.has_expired(number) return Element.expire(number, ends_of({number})[number]) end
function Element.expire_some()   -- at most 250; answers how many were deleted
  local gone = 0
  if not (Q.special and Q.due > 0 and Q.due <= now()) then return gone end
  for _, number in ipairs(call('ZRANGEBYSCORE', K.expiring, '-inf', digits(now()), 'LIMIT', 0, 250)) do
    call('ZREM', K.expiring, number)
    if Element.delete(number) then gone = gone + 1 end
  end
  Queue.count('expired', gone)
  return gone
end
