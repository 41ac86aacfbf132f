-- Acknowledges leases: the elements leave the queue.
-- Arguments: number, handed, epoch of each lease.
-- Returns 1 for each, or 0 when the lease is lost.
verb('ack', FREES, function(args)
  Queue.begin()
  local answers = Leases.acknowledge(args, 2)
  if Q.packed then Queue.save() end
  return answers
end)
