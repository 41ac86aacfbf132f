-- Which broadcasts are sure. (sure, pos] is not: only an instance that joined at or before `sure` can
-- have heard them all; a newcomer's confirmation says nothing of what went out before it came.
-- When no such instance is left, what the oldest newcomer did not hear goes back to wait.
local function settle()
  while sure < pos do
    local old, oldest, told = false, pos, sure
    local from = call('HVALS', P..'from')
    for _, entry in ipairs(from) do
      local joined, confirmed = string.match(entry, '^(%d+) (%d+)$')
      joined, confirmed = tonumber(joined), tonumber(confirmed)
      if joined <= sure then old, told = true, math.max(told, confirmed)
      else oldest = math.min(oldest, joined) end
    end
    if told > sure then
      arrived(call('ZRANGEBYSCORE', P..'b', '-inf', digits(told)))
      call('ZREMRANGEBYSCORE', P..'b', '-inf', digits(told))
      sure, best = told, math.max(best, told)
    elseif old then return
    else
      giveback(call('ZRANGEBYSCORE', P..'b', '-inf', digits(oldest)))
      for at = sure + 1, oldest do
        local entry = call('XRANGE', P..'h', digits(at), digits(at), 'COUNT', 1)[1]
        if entry then call('XDEL', P..'h', entry[1]) end
      end
      local last = call('XREVRANGE', P..'h', '+', '-', 'COUNT', 1)[1]
      sum = last and tonumber(last[2][6]) or cut   -- what was taken back is no history
      call('RPUSH', P..'void', digits(sure + 1)..' '..digits(oldest))
      call('LTRIM', P..'void', -20, -1)
      sure, best = oldest, math.max(best, oldest)
    end
  end
end
local function confirm(inst, at)
  local entry = call('HGET', P..'from', inst)
  if not entry then return end
  local joined, confirmed = string.match(entry, '^(%d+) (%d+)$')
  if at > tonumber(confirmed) and at <= pos then
    call('HSET', P..'from', inst, joined..' '..digits(at))
    best = math.max(best, at)
  end
end
