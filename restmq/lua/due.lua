-- Claims queues in which something is due. A claim of an instance that died ends by itself.
-- KEYS at zset, claimed zset · ARGV how many
-- Returns names.
local call = redis.call
local t = call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
for _, name in ipairs(call('ZRANGEBYSCORE', KEYS[2], '-inf', now, 'LIMIT', 0, 100)) do
  call('ZREM', KEYS[2], name)
  call('ZADD', KEYS[1], 'LT', now, name)
end
local names = call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[1])
for _, name in ipairs(names) do
  call('ZREM', KEYS[1], name)
  call('ZADD', KEYS[2], now + 2000, name)
end
return names
