-- Enters a queue in the set of those that an instance listens to.
-- keys: q:INSTANCE set
-- the queue
-- Returns 1 when it is new there. A function only because a bare SADD is refused when Redis is full.
index_verb('note', function(keys, args) return call('SADD', keys[1], args[1]) end)
