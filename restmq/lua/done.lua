-- Ends a claim, and notes when the queue is due next.
-- KEYS at zset, claimed zset · ARGV name, ms from now or ''
local call = redis.call
local t = call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local at = call('ZSCORE', KEYS[1], ARGV[1])
if at and tonumber(at) <= now then call('ZREM', KEYS[1], ARGV[1]) end
if ARGV[2] ~= '' then call('ZADD', KEYS[1], 'LT', now + tonumber(ARGV[2]), ARGV[1]) end
call('ZREM', KEYS[2], ARGV[1])
return 1
