-- One beat of an instance: it lives for so many ms more as a beat lasts, and learns whom it must reap.
-- KEYS alive zset, doomed zset, last string: ms and run id · ARGV INST, 1 when it is new, ms a beat lasts, run id
-- Returns {now in ms, 'ok' or 'doomed', dead instances to reap…}; each is handed out under a claim that ends.
local call, inst, lasts = redis.call, ARGV[1], tonumber(ARGV[3])
local t = call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
if ARGV[2] == '0' and not call('ZSCORE', KEYS[1], inst) then return {now, 'doomed'} end
local last, run = string.match(call('GET', KEYS[3]) or '0', '^(%d+) ?(.*)$')
local back = tonumber(last) > now + 1000   -- its clock was set back: what was noted by it would hold for too long
if back or run ~= ARGV[4] or now - tonumber(last) > lasts * 2 / 3 then   -- Redis was away: suspect no one yet
  for _, other in ipairs(call('ZRANGE', KEYS[1], 0, -1)) do call('ZADD', KEYS[1], now + lasts, other) end
end
for _, dead in ipairs(back and call('ZRANGE', KEYS[2], 0, -1) or {}) do call('ZADD', KEYS[2], 0, dead) end
call('SET', KEYS[3], now..' '..ARGV[4])
call('ZADD', KEYS[1], now + lasts, inst)
for _, dead in ipairs(call('ZRANGEBYSCORE', KEYS[1], '-inf', now)) do
  call('ZREM', KEYS[1], dead)
  call('ZADD', KEYS[2], 0, dead)
end
local reap = call('ZRANGEBYSCORE', KEYS[2], '-inf', now, 'LIMIT', 0, 10)
for _, dead in ipairs(reap) do call('ZADD', KEYS[2], now + lasts, dead) end
return {now, 'ok', unpack(reap)}
