-- Claims queues in which something is due. A claim of an instance that died ends by itself.
-- KEYS at zset, claimed zset · ARGV how many
-- Returns the ms until the next is due (0 when more are due now, -1 when none), then names.
local call = redis.call
local t = call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local function over(from, to)
  for _, name in ipairs(call('ZRANGEBYSCORE', KEYS[2], from, to, 'LIMIT', 0, 100)) do
    call('ZREM', KEYS[2], name)
    call('ZADD', KEYS[1], 'LT', now, name)
  end
end
over('-inf', now)
over('('..now + 2000, '+inf')   -- Redis' clock was set back: they would hold for too long
local names = call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[1])
for _, name in ipairs(names) do
  call('ZREM', KEYS[1], name)
  call('ZADD', KEYS[2], now + 2000, name)
end
local following = call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')[2]
return {following and math.max(0, tonumber(following) - now) or -1, unpack(names)}
