-- Ends a claim, and notes when the queue is due next.
-- KEYS at zset, claimed zset · ARGV name, ms or ''
if ARGV[2] ~= '' then redis.call('ZADD', KEYS[1], 'LT', ARGV[2], ARGV[1]) end
redis.call('ZREM', KEYS[2], ARGV[1])
return 1
