-- Which broadcasts are sure. (sure, pos] is not: only an instance that joined at or before `sure` can
-- have heard them all; a newcomer's confirmation says nothing of what went out before it came.
-- When no such instance is left, what the oldest newcomer did not hear goes back to wait.
-- A call moves 1,000 elements at the most, for (sure, pos] may be long while who joined first is stuck. What is
-- sure is so at once, though: the next call, or a sweep, takes the rest of b up to it out of the queue.
local function settle()   -- true when there is more to do
  local steps = 1000
  while sure < pos and steps > 0 do
    local old, oldest, told = false, pos, sure
    for _, entry in ipairs(call('HVALS', P..'from')) do
      local joined, confirmed = string.match(entry, '^(%d+) (%d+)$')
      joined, confirmed = tonumber(joined), tonumber(confirmed)
      if joined <= sure then old, told = true, math.max(told, confirmed)
      else oldest = math.min(oldest, joined) end
    end
    if told > sure then sure = told
    elseif old then break
    else
      local list = call('ZRANGEBYSCORE', P..'b', '('..digits(sure), digits(oldest), 'LIMIT', 0, steps)
      if #list == steps then oldest = tonumber(call('ZSCORE', P..'b', list[steps])) end
      steps = steps - #list
      giveback(list)
      while true do   -- what was taken back is no history
        local entry = call('XRANGE', P..'h', digits(sure + 1), digits(oldest), 'COUNT', 1)[1]
        if not entry then break end
        call('XDEL', P..'h', entry[1])
      end
      local last = call('XREVRANGE', P..'h', '+', '-', 'COUNT', 1)[1]
      sum = last and tonumber(last[2][6]) or cut
      local void = call('LINDEX', P..'void', -1) or ''
      if string.match(void, '%d+$') == digits(sure) then
        call('LSET', P..'void', -1, string.match(void, '^%d+ ')..digits(oldest))
      else call('RPUSH', P..'void', digits(sure + 1)..' '..digits(oldest)) end
      call('LTRIM', P..'void', -20, -1)
      sure = oldest
    end
    best = math.max(best, sure)
  end
  if pos == 0 then return false end
  local list = call('ZRANGEBYSCORE', P..'b', '-inf', digits(sure), 'LIMIT', 0, steps)
  arrived(list)
  if #list > 0 then call('ZREM', P..'b', unpack(list)) end
  if #list < steps then return false end
  late(time())
  return true
end
local function confirm(inst, at, deaf)   -- all up to P `at`, but for what is not sure up to `deaf`
  local joined, confirmed = string.match(call('HGET', P..'from', inst) or '', '^(%d+) (%d+)$')
  if not joined or math.max(at, deaf) <= tonumber(confirmed) or math.max(at, deaf) > pos then return end
  if deaf > tonumber(confirmed) then joined = digits(deaf) end
  call('HSET', P..'from', inst, joined..' '..digits(math.max(at, deaf)))
  best = math.max(best, at)
end
