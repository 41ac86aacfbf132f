-- Enters a queue in the set of those that an instance listens to.
-- KEYS q:INST set · ARGV queue
-- Returns 1 when it is new there. A script only because a bare SADD is refused when Redis is full.
return redis.call('SADD', KEYS[1], ARGV[1])
