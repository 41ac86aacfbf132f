-- So many GETs of an instance wait no more, because their clients have left.
-- Arguments: instance, how many.
-- Returns how many of them had been woken already; the next ones were woken in their place.
verb('unwait', FREES, function(args)
  local instance, many = args[2], tonumber(args[3])
  if not Q.packed then return many end
  Queue.begin()
  local woken = many - call('LREM', K.waiters, -many, instance)
  Waiters.wake(woken)
  Queue.save()
  return woken
end)
