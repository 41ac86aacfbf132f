-- Notes that something in a queue will be due.
-- Keys: at zset.
-- Arguments: name, ms from now.
index_verb('schedule', function(keys, args)
  return call('ZADD', keys[1], 'LT', now() + tonumber(args[2]), args[1])
end)
