-- Empties the queue, or forgets it: then its counter, settings and name go too. Consumers stay connected.
-- Arguments: 1 to forget it or 0, a new epoch.
-- Returns 1 when there was something.
verb('purge', FREES, function(args)
  local forget, epoch = args[2] == '1', args[3]
  if not Q.packed then return 0 end
  Queue.begin()
  if forget then return Emptying.forget(epoch) and 1 or 0 end
  local held = Emptying.empty()
  Queue.count('purged', held)
  if Q.last > 0 then call('HSET', K.about, 'emptied', digits(Q.last)) end   -- see untake.lua
  Queue.save()
  return held > 0 and 1 or 0
end)
