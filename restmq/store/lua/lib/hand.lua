-- Handing waiting elements to live consumers. All that frees something ends in pump().
-- A chunk is at most 256 elements; the confirmation of one lets the next go out.
-- Large values are bounded in bytes besides: Redis cuts off an instance that is 32 MB behind.
local CHUNK, WINDOW, CHUNK_BYTES, WINDOW_BYTES = 256, 1000, 1048576, 4194304
local function message(kind, first, list)
  local head, values = {}, {}
  for i, e in ipairs(list) do head[i], values[i] = e[1]..' '..e[5]..' '..#e[3], e[3] end
  return kind..' '..call('HGET', P..'a', 'ep')..' '..digits(first)..'\n'
    ..table.concat(head, ' ')..'\n'..table.concat(values)
end
local function setout(list, owner)   -- notes that these are on their way
  local y, back = {}, {}
  for _, e in ipairs(list) do
    y[#y + 1] = e[1]
    y[#y + 1] = owner..' '..e[5]..' '..e[2]..' '..#e[3]
    if e[4] then back[#back + 1] = e[1] else c = math.max(c, tonumber(e[1])) end
  end
  call('HSET', P..'y', unpack(y))
  if #back > 0 then call('ZREM', P..'r', unpack(back)) end
  slow = true
end
local function trim()   -- history keeps its bounds; what is not confirmed is never cut
  local most, size = rule.history, rule.history_bytes
  local none = most == 0 or size == 0
  if not none and pos - floor <= most * 1.125 + 8 and sum - cut <= size * 1.125 then return end
  local to = math.min(math.max(floor, pos - most), sure)
  if none then to = sure end
  call('XTRIM', P..'h', 'MINID', digits(to + 1))
  for _ = 1, 100 do
    local first = call('XRANGE', P..'h', '-', '+', 'COUNT', 1)[1]
    if not first then cut, floor = sum, pos return end
    local at = tonumber(string.match(first[1], '^%d+'))
    cut, floor = tonumber(first[2][6]) - #first[2][2], at - 1
    if sum - cut <= size or at > sure then return end
    call('XDEL', P..'h', first[1])
    cut, floor = tonumber(first[2][6]), at
  end
end
local function broadcast()   -- one message a chunk, P by P
  local room = math.min(CHUNK, WINDOW - (pos - best))
  if room <= 0 then return end
  if pos > best then
    local oldest = call('XRANGE', P..'h', digits(best + 1), '+', 'COUNT', 1)[1]
    if oldest and sum - tonumber(oldest[2][6]) > WINDOW_BYTES then return end
  end
  local list = heads(room, CHUNK_BYTES)
  if #list == 0 then return end
  for _, e in ipairs(list) do e[5] = tries(e[1]) + 1 end
  if publish('c'..db, message('B', pos + 1, list)) == 0 then live = false return end
  local order, now = {}, digits(time())
  for _, e in ipairs(list) do
    pos, sum = pos + 1, sum + #e[3]
    order[#order + 1] = digits(pos)
    order[#order + 1] = e[1]
    local ends = due > 0 and call('ZSCORE', P..'t', e[1])
    local entry = {'v', e[3], 't', now, 's', digits(sum)}
    if ends then entry[7], entry[8] = 'e', ends end
    call('XADD', P..'h', digits(pos)..'-'..e[1], unpack(entry))
  end
  setout(list, '*')
  call('ZADD', P..'b', unpack(order))
  trim()
end
local function room(inst)   -- how many more this instance may hold
  local ready, may = string.match(call('HGET', P..'live', inst) or '0 0 0', '^(%d+) (%d+) ')
  if ready == '0' then return 0, 0 end
  return tonumber(ready), math.max(0, tonumber(may) - call('SCARD', P..'way:'..inst))
end
local function deal()   -- the ring's head gets one for each of its ready consumers, then it turns
  local ring = call('LRANGE', P..'ring', 0, -1)
  local ready, free, total, share = {}, {}, 0, {}
  for _, inst in ipairs(ring) do
    ready[inst], free[inst] = room(inst)
    total, share[inst] = total + free[inst], {}
  end
  local list = total > 0 and heads(math.min(CHUNK, total), CHUNK_BYTES) or {}
  local i, at, idle, turned = 1, 1, 0, 0
  while i <= #list and idle <= #ring do
    local inst = ring[at]
    left = math.min(left, ready[inst])
    if left > 0 and free[inst] > 0 then
      local e = list[i]
      e[5] = tries(e[1]) + 1
      table.insert(share[inst], e)
      i, left, free[inst], idle = i + 1, left - 1, free[inst] - 1, 0
    else left, idle = 0, idle + 1 end
    if left == 0 then
      at, turned = at % #ring + 1, turned + 1
      left = ready[ring[at]]
    end
  end
  for _ = 1, turned % math.max(#ring, 1) do call('LMOVE', P..'ring', P..'ring', 'LEFT', 'RIGHT') end
  local again = false
  for _, inst in ipairs(ring) do
    local mine = share[inst]
    if #mine > 0 then
      setout(mine, inst)
      local ns = {}
      for k, e in ipairs(mine) do ns[k] = e[1] end
      call('SADD', P..'way:'..inst, unpack(ns))
      call('SADD', P..'ways', inst)
      if publish('i'..db..':'..inst, message('R', 0, mine)) == 0 then   -- not listening now
        call('LREM', P..'ring', 0, inst)
        call('HDEL', P..'live', inst)
        call('SREM', P..'way:'..inst, unpack(ns))
        call('HDEL', P..'y', unpack(ns))
        local z = {}
        for _, N in ipairs(ns) do z[#z + 1] = N z[#z + 1] = N end
        call('ZADD', P..'r', unpack(z))
        left, again = 0, true
      end
    end
  end
  if call('EXISTS', P..'ring') == 0 then live = false return end
  return again
end
local function pump()   -- live consumers first, then GETs that wait
  tell()
  if live and not stopped then
    if roundrobin then
      for _ = 1, 8 do if not deal() then break end end
    else broadcast() end
  end
  wake(offered)
end
