-- An instance says how many of its consumers take elements of this queue. It joins with the first, and leaves with
-- count 0. The numbers are absolute, so that saying it twice does no harm.
-- Arguments: instance, ready, room, count, position confirmed, then what it has seen: epoch or '', highest number,
-- highest position, settings as JSON; then a new epoch; 1 when Redis holds other data than at that time; `untaken`:
-- the position up to which no consumer here will take the broadcasts, or 0. The instance counts as one that joined
-- there.
-- Returns the error GIVENUP when the instance was reaped, or {epoch, position, number, policy, ms until something is
-- due or -1, the queue's settings: name, value…}. With replay, the instance then reads the broadcasts that it missed
-- up to that position. With SSCAN of way:INSTANCE it reads the round-robin elements that are in flight to it.
local function join(instance, ready, room, count)
  if call('HEXISTS', K.listeners, instance) == 0 or call('HEXISTS', K.joined, instance) == 0 then
    call('LREM', K.ring, 0, instance)
    call('RPUSH', K.ring, instance)
    call('HSETNX', K.joined, instance, digits(Q.position)..' '..digits(Q.position))
  end
  call('HSET', K.listeners, instance, ready..' '..room..' '..count)
  if ready ~= '0' then   -- the newest consumer is ready for what follows, even if the others are far behind
    local confirmed = tonumber(string.match(call('HGET', K.joined, instance) or '', '%d+$')) or 0
    Q.reached = math.max(Q.reached, confirmed)
  end
  Q.listened = true
end
local function leave(instance)
  Broadcasts.settle()   -- while the instance still counts
  call('LREM', K.ring, 0, instance)
  call('HDEL', K.listeners, instance)
  call('HDEL', K.joined, instance)
  if call('EXISTS', Keys.held(instance)) == 0 then call('SREM', K.holders, instance) end
  if call('EXISTS', K.ring) == 0 then
    Q.listened = false
    Waiting.offer_all()
  end
end
verb('listen', FREES, function(args)
  local instance, ready, room, count, confirmed, seen_epoch, number, position, seen, epoch, other_data, untaken =
    unpack(args, 2, 13)
  Queue.begin()
  if call('SISMEMBER', K.reaped, instance) == 1 then return redis.error_reply('GIVENUP') end
  Recovery.notice(seen_epoch, tonumber(number), tonumber(position), seen, epoch, other_data == '1')
  Queue.begin_epoch(epoch)
  if count ~= '0' then join(instance, ready, room, count) end
  if seen_epoch == Queue.epoch() then Broadcasts.confirm(instance, tonumber(confirmed), tonumber(untaken or 0)) end
  if count == '0' then leave(instance) end
  local at, now_epoch = Q.position, Queue.epoch()   -- the epoch may go when nothing but it is left
  Broadcasts.settle()
  Delivery.go_on()
  Queue.save()
  return {now_epoch, at, Q.last, Settings.policy(), Queue.due_in(), Settings.own()}
end)
