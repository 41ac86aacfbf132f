-- Broadcasts up to Q.settled are confirmed for good. Only an instance that had joined by that position can have heard
-- all broadcasts behind it. The confirmation of a newcomer says nothing about broadcasts before it came. When no such
-- instance is left, the broadcasts that the oldest newcomer did not hear wait again.
local Broadcasts = {}
-- Answers three things: whether any instance had joined by Q.settled; how far one of these has confirmed; where the
-- first one joined that joined later.
local function oldest_listeners()
  local anybody, confirmed_most, newcomer = false, Q.settled, Q.position
  for _, entry in ipairs(call('HVALS', K.joined)) do
    local joined, confirmed = string.match(entry, '^(%d+) (%d+)$')
    joined, confirmed = tonumber(joined), tonumber(confirmed)
    if joined <= Q.settled then
      anybody, confirmed_most = true, math.max(confirmed_most, confirmed)
    else
      newcomer = math.min(newcomer, joined)
    end
  end
  return anybody, confirmed_most, newcomer
end
-- Moves at most 1,000 elements, because there may be many behind one that is stuck. Q.settled moves at once. The next
-- call, or a sweep, takes the other elements up to it out of the queue. Answers whether there are more.
function Broadcasts.settle()
  local steps = 1000
  while Q.settled < Q.position and steps > 0 do
    local anybody, confirmed, newcomer = oldest_listeners()
    if confirmed > Q.settled then
      Q.settled = confirmed
    elseif anybody then
      break
    else
      local numbers = call('ZRANGEBYSCORE', K.unconfirmed, '('..digits(Q.settled), digits(newcomer), 'LIMIT', 0, steps)
      if #numbers == steps then newcomer = tonumber(call('ZSCORE', K.unconfirmed, numbers[steps])) end
      steps = steps - #numbers
      Sent.give_back(numbers)
      History.take_back(Q.settled + 1, newcomer)
      Q.settled = newcomer
    end
    Q.reached = math.max(Q.reached, Q.settled)
  end
  if Q.position == 0 then return false end
  local numbers = call('ZRANGEBYSCORE', K.unconfirmed, '-inf', digits(Q.settled), 'LIMIT', 0, steps)
  Sent.arrived(numbers)
  if #numbers > 0 then call('ZREM', K.unconfirmed, unpack(numbers)) end
  if #numbers < steps then return false end
  Queue.due_at(now())
  return true
end
-- An instance has confirmed all broadcasts up to position `at`. None of its consumers will take those up to `untaken`.
-- So the instance counts as one that joined there.
function Broadcasts.confirm(instance, at, untaken)
  local joined, confirmed = string.match(call('HGET', K.joined, instance) or '', '^(%d+) (%d+)$')
  local most = math.max(at, untaken)
  if not joined or most <= tonumber(confirmed) or most > Q.position then return end
  if untaken > tonumber(confirmed) then joined = digits(untaken) end
  call('HSET', K.joined, instance, joined..' '..digits(most))
  Q.reached = math.max(Q.reached, at)
end
