-- Notes that something in a queue will be due.
-- KEYS at zset · ARGV name, ms from now
local t = redis.call('TIME')
return redis.call('ZADD', KEYS[1], 'LT', t[1] * 1000 + math.floor(t[2] / 1000) + tonumber(ARGV[2]), ARGV[1])
