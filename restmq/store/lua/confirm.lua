-- An instance says which elements its sockets have taken. This opens the window for the next chunk.
-- Arguments: instance; epoch; position up to which all broadcasts were taken, or 0; "READY ROOM COUNT READY_AFTER";
-- how many numbers follow; numbers of round-robin elements; then number and ms of those that its consumers lease.
--   READY ROOM COUNT: as in listen.lua
--   READY_AFTER: position after which some consumer is ready for more, though an earlier element may be stuck
-- Returns the ms until something is due, -1 when nothing is.
local function grant_to_consumers(args, first, instance)   -- elements that were in flight to them are leased now
  for at = first, #args, 2 do
    local number, ms = args[at], tonumber(args[at + 1])
    local owner, handed = string.match(call('HGET', K.sent, number) or '', '^(%S+) (%d+)')
    if owner == instance then
      call('HDEL', K.sent, number)
      Element.forget_sent(number, owner)
      local tries = Element.tries(number)
      tries.handed, tries.owner = tonumber(handed), owner
      Leases.grant({{number = number}}, {[number] = tries}, ms)
    end
  end
end
verb('confirm', FREES, function(args)
  local instance, epoch, position, state, many = unpack(args, 2, 6)
  if not Q.packed then return -1 end
  Queue.begin()
  if Queue.epoch() ~= epoch then return -1 end   -- of an earlier epoch of the queue
  local listening, ready_after = string.match(state, '^(%d+ %d+ %d+) ?(%d*)$')
  if call('HEXISTS', K.listeners, instance) == 1 then call('HSET', K.listeners, instance, listening) end
  local numbers, last = {}, 6 + tonumber(many)
  for at = 7, last do numbers[#numbers + 1] = args[at] end
  Sent.arrived(numbers)
  grant_to_consumers(args, last + 1, instance)
  Broadcasts.confirm(instance, tonumber(position), 0)
  -- A consumer that is stuck does not stop other consumers.
  Q.reached = math.max(Q.reached, math.min(Q.position, tonumber(ready_after) or 0))
  Broadcasts.settle()
  History.trim()   -- before, positions that were not settled could not be cut
  Delivery.go_on()
  Queue.save()
  return Queue.due_in()
end)
