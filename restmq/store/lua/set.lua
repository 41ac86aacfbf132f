-- Changes the policy or settings, for every element that is added after.
-- Arguments: a new epoch, then name and value of each; '' takes it back to what restmq.conf says.
-- Returns {ms until the queue is due, -1 for never, all its settings: name, value…}.
verb('set', FREES, function(args)
  local epoch = args[2]
  Queue.begin()
  Queue.begin_epoch(epoch)
  for at = 3, #args, 2 do
    local name, value = args[at], args[at + 1]
    if value == '' then call('HDEL', K.about, name) else call('HSET', K.about, name, value) end
    if name == 'policy' then Settings.read_policy() else Q.governed = true end
  end
  call('HINCRBY', K.about, 'sv', 1)
  call('HDEL', K.about, 'ex')
  Settings.govern_no_more()
  Settings.count_idleness()
  Delivery.go_on()
  Queue.save()
  return {Queue.due_in(), unpack(Settings.own())}
end)
