-- Deletes one element wherever it is. With a lease, only if that still holds; then the element is acknowledged.
-- Arguments: number, handed or '', epoch.
-- Returns 1, 0 when the element is gone, -1 when the lease is lost.
verb('del', FREES, function(args)
  local number, handed, epoch = unpack(args, 2, 4)
  if not Q.packed then return 0 end
  Queue.begin()
  local answer = 1
  if Element.has_expired(number) or not Element.find(number) then
    answer = 0
  elseif handed ~= '' and not Leases.holds(number, handed, epoch) then
    answer = -1
  else
    Element.delete(number)
    if handed == '' then Queue.count('deleted', 1) else Q.acked = Q.acked + 1 end
    Delivery.go_on()
  end
  Queue.save()
  return answer
end)
