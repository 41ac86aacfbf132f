-- Takes a dead instance out of the queue: out of the ring and the line of GETs. Elements that it held go back. Its
-- consumers keep their leases until these end: they may acknowledge through another instance.
-- Arguments: instance, 1 when it may never come again: an id is used once only.
-- Returns 1 when there is more to give back: call again.
verb('reap', FREES, function(args)
  local instance, for_good = args[2], args[3] == '1'
  if for_good then   -- the instance may have asked for more before it knew: that must not put it back
    call('SADD', K.reaped, instance)
    call('PEXPIRE', K.reaped, 600000)
  end
  if not Q.packed then return 0 end
  Queue.begin()
  call('LREM', K.ring, 0, instance)
  call('HDEL', K.listeners, instance)
  call('HDEL', K.joined, instance)
  if call('HDEL', K.taps, instance) == 1 then Settings.govern_no_more() end
  call('LREM', K.waiters, 0, instance)
  if call('EXISTS', K.ring) == 0 then Q.listened = false end
  local held = call('SRANDMEMBER', Keys.held(instance), 500)
  Sent.give_back(held)
  if #held < 500 then call('SREM', K.holders, instance) end
  local more = Broadcasts.settle()
  Waiting.offer_all()   -- it may have been woken and have taken nothing
  Delivery.go_on()
  Queue.save()
  return (more or #held == 500) and 1 or 0
end)
