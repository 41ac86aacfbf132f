-- An instance begins or stops to see every add of this queue.
-- Arguments: instance, 1 or 0.
-- Returns 1.
verb('tap', FREES, function(args)
  local instance, on = args[2], args[3] == '1'
  Queue.begin()
  if on then
    call('HSET', K.taps, instance, 1)
    Q.governed = true
  elseif call('HDEL', K.taps, instance) == 1 then
    Settings.govern_no_more()
  end
  Queue.save()
  return 1
end)
