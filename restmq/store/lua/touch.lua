-- Prolongs a lease.
-- Arguments: number, handed or '' for any lease, epoch, ms.
-- Returns {1, how often it was handed out, epoch}, {0} when the lease is lost, {-1} when there is no such element.
verb('touch', FREES, function(args)
  local number, handed, epoch, ms = unpack(args, 2, 5)
  if not Q.packed then return {-1} end
  Queue.begin()
  if Element.has_expired(number) or not Element.find(number) or not Leases.holds(number, handed, epoch) then
    Queue.save()
    return {Element.find(number) and 0 or -1}
  end
  Leases.mark_arrived(number)
  Element.set_apart(number)   -- an element that lives long must not hold a whole node of the stream
  local at = now() + tonumber(ms)
  call('ZADD', K.leased, digits(at), number)
  Queue.due_at(at)
  Queue.save()
  return {1, Element.tries(number).handed, Queue.epoch()}
end)
