-- Enters a queue in the set of those that an instance listens to.
-- Keys: q:INSTANCE set.
-- Arguments: the queue.
-- Returns 1 when it is new there. This is a function because Redis refuses a bare SADD when it is full.
index_verb('note', function(keys, args) return call('SADD', keys[1], args[1]) end)
