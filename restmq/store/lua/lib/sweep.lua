-- What is due: at most 250 of each kind a call. `due` is 0 when nothing is left, now when there is more.
local function resting()   -- when it is to be forgotten: nothing is in it, and nobody used it since `used`
  local ttl = rule.idle_ttl
  if not ruled or ttl == 0 then return end
  if live or waits or call('XLEN', P..'q') + call('HLEN', P..'e') + call('EXISTS', P..'taps') > 0 then
    return time() + ttl
  end
  call('HSET', P..'a', 'used', digits(used))   -- this was no use
  return used + ttl
end
local function sweep(held)   -- held: ms until which no lease ends, 0 for none
  if due == 0 or due > time() then return end
  local now = digits(time())
  local list = call('ZRANGEBYSCORE', P..'t', '-inf', now, 'LIMIT', 0, 250)
  for _, N in ipairs(list) do
    call('ZREM', P..'t', N)
    if wipe(N) then count('expired', 1) end
  end
  if held <= time() then
    for _, N in ipairs(call('ZRANGEBYSCORE', P..'l', '-inf', now, 'LIMIT', 0, 250)) do
      release(N, true, nil, 'the lease ended')
    end
  end
  list = call('ZRANGEBYSCORE', P..'d', '-inf', now, 'LIMIT', 0, 250)
  if #list > 0 then
    call('ZREM', P..'d', unpack(list))
    for _, N in ipairs(list) do again(N) end
  end
  local set = call('LINDEX', P..'lost', 0)
  if set then   -- see renew.lua
    list = call('SPOP', P..set, 250)
    giveback(list)
    if #list < 250 then call('LPOP', P..'lost') end
  end
  due = call('EXISTS', P..'lost') == 1 and time() or 0
  for _, zset in ipairs({'t', 'l', 'd'}) do
    local at = tonumber(call('ZRANGE', P..zset, 0, 0, 'WITHSCORES')[2])
    if at then late(math.max(at, zset == 'l' and held or 1)) end
  end
  for _, scope in ipairs({'live', 'pull', 'add'}) do
    local till = tonumber(ruled and call('HGET', P..'a', 'stop_'..scope) or 0)
    if till > 0 and till <= time() then
      call('HDEL', P..'a', 'stop_'..scope)
      if scope == 'live' then stopped = false end
      unrule()
      if scope == 'pull' then offered = waiting() end
    elseif till > 0 then late(till) end
  end
end
