-- One beat of an instance: it is alive for as many ms more as a beat lasts, and learns which instances it must reap.
-- Keys: alive zset, doomed zset, last string (ms and run id), libraries zset.
-- Arguments: instance, 1 when it is new, ms a beat lasts, run id of Redis, the instance's library, libraries that are
-- there.
-- Returns {now in ms, 'ok' or 'doomed', how many instances follow, dead instances to reap…, libraries that nobody has
-- used for ten minutes…}. Each dead instance is given to one instance only, under a claim that ends.
local UNUSED = 600000   -- ms after its last use until a library counts as unused
local function suspect_no_one(keys, last_beat, lasts)   -- Redis was away: all instances are alive for a beat more
  for _, instance in ipairs(call('ZRANGE', keys[1], 0, -1)) do call('ZADD', keys[1], now() + lasts, instance) end
  if not last_beat then return end   -- Redis' clock was set back: claims noted by it would hold too long
  for _, instance in ipairs(call('ZRANGE', keys[2], 0, -1)) do call('ZADD', keys[2], 0, instance) end
end
local function unused_libraries(key, args)
  for at = 6, #args do call('ZADD', key, 'NX', now() + UNUSED, args[at]) end
  call('ZADD', key, now() + UNUSED, args[5])
  local unused = call('ZRANGEBYSCORE', key, '-inf', now(), 'LIMIT', 0, 10)
  if #unused > 0 then call('ZREM', key, unpack(unused)) end
  return unused
end
index_verb('beat', function(keys, args)
  local instance, lasts, run = args[1], tonumber(args[3]), args[4]
  if args[2] == '0' and not call('ZSCORE', keys[1], instance) then return {now(), 'doomed', 0} end
  local last, last_run = string.match(call('GET', keys[3]) or '0', '^(%d+) ?(.*)$')
  local set_back = tonumber(last) > now() + 1000
  if set_back or last_run ~= run or now() - tonumber(last) > lasts * 2 / 3 then suspect_no_one(keys, set_back, lasts) end
  call('SET', keys[3], now()..' '..run)
  call('ZADD', keys[1], now() + lasts, instance)
  for _, dead in ipairs(call('ZRANGEBYSCORE', keys[1], '-inf', now())) do
    call('ZREM', keys[1], dead)
    call('ZADD', keys[2], 0, dead)
  end
  local answer = {now(), 'ok', 0}
  for _, dead in ipairs(call('ZRANGEBYSCORE', keys[2], '-inf', now(), 'LIMIT', 0, 10)) do
    call('ZADD', keys[2], now() + lasts, dead)
    answer[#answer + 1], answer[3] = dead, answer[3] + 1
  end
  for _, library in ipairs(unused_libraries(keys[4], args)) do answer[#answer + 1] = library end
  return answer
end)
