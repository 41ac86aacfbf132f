-- Handing waiting elements to live consumers. A verb ends in Delivery.go_on() when more can be handed out after it.
-- A chunk is at most 256 elements. Its confirmation lets the next one go out. Large values are bounded in bytes as
-- well, because Redis cuts off an instance that is 32 MB behind.
local CHUNK, WINDOW, CHUNK_BYTES, WINDOW_BYTES = 256, 1000, 1048576, 4194304
local Delivery = {}
function Delivery.message(kind, first, elements)   -- of a broadcast, a round-robin share, or an add for taps
  local head, values = {}, {}
  for at, one in ipairs(elements) do
    head[at], values[at] = one.number..' '..one.handed..' '..one.length, one.value
  end
  return kind..' '..Queue.epoch()..' '..digits(first)..'\n'..table.concat(head, ' ')..'\n'..table.concat(values)
end
local function count_handed(elements)   -- counts that they are handed out once more
  local numbers = {}
  for at, one in ipairs(elements) do numbers[at] = one.number end
  local tries = Element.tries_of(numbers)
  for _, one in ipairs(elements) do one.handed = tries[one.number].handed + 1 end
end
local function window_room()   -- how many more may be unconfirmed
  local room = math.min(CHUNK, WINDOW - (Q.position - Q.reached))
  if room <= 0 or Q.position <= Q.reached then return room end
  local oldest = History.at_or_after(Q.reached + 1)
  return oldest and Q.sum - oldest.sum > WINDOW_BYTES and 0 or room
end
local function broadcast()   -- one message for each chunk, position by position
  local room = window_room()
  local elements = room > 0 and Waiting.oldest(room, CHUNK_BYTES) or {}
  if #elements == 0 then return end
  count_handed(elements)
  if publish(Keys.broadcasts(), Delivery.message('B', Q.position + 1, elements)) == 0 then
    Q.listened = false
    return
  end
  local order = {}
  for _, one in ipairs(elements) do
    History.add(one)
    order[#order + 1] = digits(Q.position)
    order[#order + 1] = one.number
  end
  Sent.note(elements, '*')
  call('ZADD', K.unconfirmed, unpack(order))
  History.trim()
end

local function room_of(instance)   -- its consumers that take, and how many more elements it may hold
  local ready, may_hold = string.match(call('HGET', K.listeners, instance) or '0 0 0', '^(%d+) (%d+) ')
  if ready == '0' then return 0, 0 end
  return tonumber(ready), math.max(0, tonumber(may_hold) - call('SCARD', Keys.held(instance)))
end
-- The head of the ring gets an element for each of its consumers that take. Then the ring turns.
local function shares(ring, ready, free, elements)   -- instance -> elements, and by how many places the ring turned
  local share, i, at, idle, turned = {}, 1, 1, 0, 0
  for _, instance in ipairs(ring) do share[instance] = {} end
  while i <= #elements and idle <= #ring do
    local instance = ring[at]
    Q.owed = math.min(Q.owed, ready[instance])
    if Q.owed > 0 and free[instance] > 0 then
      table.insert(share[instance], elements[i])
      i, Q.owed, free[instance], idle = i + 1, Q.owed - 1, free[instance] - 1, 0
    else
      Q.owed, idle = 0, idle + 1
    end
    if Q.owed == 0 then
      at, turned = at % #ring + 1, turned + 1
      Q.owed = ready[ring[at]]
    end
  end
  return share, turned
end
local function send_share(instance, elements)   -- whether the instance listens; if not, they wait again
  local numbers = {}
  for at, one in ipairs(elements) do numbers[at] = one.number end
  Sent.note(elements, instance)
  call('SADD', Keys.held(instance), unpack(numbers))
  call('SADD', K.holders, instance)
  if publish(Keys.instance_channel(instance), Delivery.message('R', 0, elements)) > 0 then return true end
  call('LREM', K.ring, 0, instance)
  call('HDEL', K.listeners, instance)
  call('SREM', Keys.held(instance), unpack(numbers))
  call('HDEL', K.sent, unpack(numbers))
  for _, number in ipairs(numbers) do call('ZADD', K.again, number, number) end
  Q.owed = 0
  return false
end
local function deal()   -- whether to try once more, because some instance did not listen
  local ring, ready, free, total = call('LRANGE', K.ring, 0, -1), {}, {}, 0
  for _, instance in ipairs(ring) do
    ready[instance], free[instance] = room_of(instance)
    total = total + free[instance]
  end
  local elements = total > 0 and Waiting.oldest(math.min(CHUNK, total), CHUNK_BYTES) or {}
  count_handed(elements)
  local share, turned = shares(ring, ready, free, elements)
  for _ = 1, turned % math.max(#ring, 1) do call('LMOVE', K.ring, K.ring, 'LEFT', 'RIGHT') end
  local again = false
  for _, instance in ipairs(ring) do
    if #share[instance] > 0 and not send_share(instance, share[instance]) then again = true end
  end
  if call('EXISTS', K.ring) == 0 then
    Q.listened = false
    return false
  end
  return again
end

function Delivery.go_on()   -- live consumers first, then GETs that wait
  Queue.report_freed()
  if Q.listened and not Q.stopped then
    if Q.roundrobin then
      for _ = 1, 8 do if not deal() then break end end
    else
      broadcast()
    end
  end
  Waiters.wake(offered)
end
