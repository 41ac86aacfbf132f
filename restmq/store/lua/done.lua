-- Ends claims, and notes when each queue is due next.
-- KEYS at zset, claimed zset · ARGV name, ms from now or '', name, ms…
local call = redis.call
local t = call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
for i = 1, #ARGV, 2 do
  local name, left = ARGV[i], ARGV[i + 1]
  local at = call('ZSCORE', KEYS[1], name)
  if at and tonumber(at) <= now then call('ZREM', KEYS[1], name) end
  if left ~= '' then call('ZADD', KEYS[1], 'LT', now + tonumber(left), name) end
  call('ZREM', KEYS[2], name)
end
return 1
