-- Emptying a queue, and forgetting it: then its counter, settings, keys and name go too. Consumers stay connected.
local Emptying = {}
function Emptying.empty()   -- answers how many there were
  local held = call('XLEN', K.stream) + call('HLEN', K.apart)
  for _, instance in ipairs(call('SMEMBERS', K.holders)) do call('UNLINK', Keys.held(instance)) end
  for _, name in ipairs(call('LRANGE', K.lost, 0, -1)) do call('UNLINK', K.prefix..name) end
  call('UNLINK', K.stream, K.again, K.apart, K.tries, K.sent, K.unconfirmed, K.expiring, K.leased, K.delayed, K.dead,
    K.own_ttl, K.history, K.taken_back, K.holders, K.lost)
  call('HDEL', K.about, 'gb')
  if Q.listened then publish(Keys.broadcasts(), 'Z '..Queue.epoch()..' 0\n\n') end   -- their leases are over
  Q.bytes, Q.cursor = 0, Q.last
  Q.settled, Q.reached, Q.floor, Q.cut = Q.position, Q.position, Q.position, Q.sum
  if not Q.governed then Q.due = 0 end   -- else a stop may end then, or the queue may be forgotten for idleness
  Q.special = Q.due > 0
  return held
end
function Emptying.forget(epoch)   -- whether there was something
  local had = Emptying.empty() > 0 or Q.created
  local tapped = call('EXISTS', K.taps) == 1
  call('UNLINK', K.about, K.answers, K.older_answers)
  if not Q.listened and not Q.awaited and not tapped then
    call('DEL', K.state, K.ring, K.listeners, K.joined)   -- left over from instances that do not listen any more
    return had
  end
  Q.due, Q.special, Q.created, Q.stopped, Q.governed = 0, false, false, false, tapped
  Q.last, Q.cursor, Q.taken, Q.acked, Q.delivered = 0, 0, 0, 0, 0
  call('HSET', K.about, 'ep', epoch)   -- consumers that listen learn by it that the queue begins anew
  Settings.read_policy()
  Queue.save()
  return had
end
