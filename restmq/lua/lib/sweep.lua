-- What has ended: at most 100 a call. `due` is 0 when nothing is left, now when there is more.
local function sweep()
  if due == 0 or due > time() then return end
  local list = call('ZRANGEBYSCORE', P..'t', '-inf', digits(time()), 'LIMIT', 0, 100)
  for _, N in ipairs(list) do
    call('ZREM', P..'t', N)
    if wipe(N) then count('expired', 1) end
  end
  local nextone = call('ZRANGE', P..'t', 0, 0, 'WITHSCORES')[2]
  due = nextone and math.max(tonumber(nextone), 1) or 0
end
