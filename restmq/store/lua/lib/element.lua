-- Finding, counting and forgetting one element. N travels as a string of digits.
local function find(N)   -- value, T, whether it lies in e; nil when it is not there
  local kept = slow and call('HGET', P..'e', N)
  if kept then
    local gap = string.find(kept, ' ', 1, true)
    return string.sub(kept, gap + 1), string.sub(kept, 1, gap - 1), true
  end
  local got = call('XRANGE', P..'q', N, N, 'COUNT', 1)[1]
  if got then return got[2][2], string.match(got[1], '%-(%d+)$'), false end
end
local function tries(N)   -- D, C, F, owner, its errors
  local x = slow and call('HGET', P..'x', N)
  if not x then return 0, 0, 0, '-', '' end
  local D, C, F, owner, errors = string.match(x, '^(%d+) (%d+) (%d+) (%S+)(.*)$')
  return tonumber(D), tonumber(C), tonumber(F), owner, errors
end
local function settries(N, D, C, F, owner, errors)
  slow = true
  if owner == '-' and errors == '' and D + C + F == 0 then call('HDEL', P..'x', N) return end
  call('HSET', P..'x', N, D..' '..C..' '..F..' '..owner..errors)
end
local function keep(N)   -- its value moves out of the stream
  local value, T, kept = find(N)
  if kept then return end
  call('XDEL', P..'q', N..'-'..T)
  call('HSET', P..'e', N, T..' '..value)
  slow = true
end
local function free(owner, N)
  if owner == '-' then return end
  freed[owner] = freed[owner] or {}
  table.insert(freed[owner], N)
end
local function unway(inst, N)   -- it is not on its way to that instance any more
  if call('SREM', P..'way:'..inst, N) == 1 then return end
  for _, set in ipairs(call('LRANGE', P..'lost', 0, -1)) do call('SREM', P..set, N) end
end
local function drop(N, T, length)   -- its stored bytes and all that is noted of it
  call('XDEL', P..'q', N..'-'..T)
  bytes = bytes - length
  if not slow then return end
  local _, _, _, owner = tries(N)
  free(owner, N)
  for _, hash in ipairs({'e', 'x', 'u'}) do call('HDEL', P..hash, N) end
  for _, zset in ipairs({'r', 't', 'l', 'd'}) do call('ZREM', P..zset, N) end
  if call('ZREM', P..'g', N) == 1 then count('gb', -length) end
  local way = call('HGET', P..'y', N)
  if way then
    call('HDEL', P..'y', N)
    local holder = string.match(way, '^%S+')
    if holder == '*' then call('ZREM', P..'b', N)
    else
      unway(holder, N)
      free(holder, N)
    end
  end
end
local function wipe(N)   -- true when it was there
  local value, T = find(N)
  if not value then return false end
  drop(N, T, #value)
  return true
end
local function ended(N)   -- its ttl is over, though nobody swept yet; then it is gone now
  local at = slow and due > 0 and call('ZSCORE', P..'t', N)
  if not at or tonumber(at) > time() then return false end
  if wipe(N) then count('expired', 1) end
  return true
end
local function expire()   -- what has ended is not there, though nobody swept; answers how many went, at most 250
  local gone = 0
  if slow and due > 0 and due <= time() then
    for _, N in ipairs(call('ZRANGEBYSCORE', P..'t', '-inf', digits(time()), 'LIMIT', 0, 250)) do
      if ended(N) then gone = gone + 1 end
    end
  end
  return gone
end
local function heads(most, limit)   -- up to `most` waiting elements, oldest first: {N, T, value, was in r}
  local back = slow and call('ZRANGE', P..'r', 0, most - 1) or {}   -- beyond c only what was delayed
  local fresh, size, from, step, unread = {}, 0, digits(c + 1), limit and 4 or most, 0
  if #back < most or tonumber(back[most]) > c then unread = most end
  local out, i, j, backcut = {}, 1, 1, #back == most
  while #out < most do
    if not fresh[i] and unread > 0 then   -- with a limit a few at a time: values may be large, and COUNT reads them all
      local asked = math.min(step, unread)
      local some = call('XRANGE', P..'q', from, '+', 'COUNT', asked)
      for _, e in ipairs(some) do fresh[#fresh + 1] = e end
      unread, step = #some == asked and unread - asked or 0, 4 * step
      from = '('..(some[1] and some[#some][1] or '')
    end
    -- Some of these had ended, so a list that was cut is over: more of it may be older than the other's rest.
    if not (fresh[i] or back[j]) or (#fresh == most and not fresh[i]) or (backcut and not back[j]) then break end
    local N, T, value, again
    if fresh[i] then N, T = string.match(fresh[i][1], '^(%d+)%-(%d+)$') end
    if N and (not back[j] or tonumber(N) < tonumber(back[j])) then
      value, again, i = fresh[i][2][2], false, i + 1
    else
      N, again, j = back[j], true, j + 1
    end
    if not ended(N) then
      if again then value, T = find(N) end
      size = size + #value
      if limit and size > limit and #out > 0 then break end
      out[#out + 1] = {N, T, value, again}
    end
  end
  return out, i + j - 2   -- the second: how many it looked at; as many as `most` means there may be more
end
local function waiting()   -- how many wait: counted from what is stored, so that a wrong counter shows
  local there = call('XLEN', P..'q')
  if not slow then return there, 0, 0, 0 end
  local away, delayed, dead = call('HLEN', P..'y') + call('ZCARD', P..'l'), call('ZCARD', P..'d'), call('ZCARD', P..'g')
  return there + call('HLEN', P..'e') - away - delayed - dead, away, delayed, dead
end
local function again(N)   -- it waits, at its key's place
  call('ZADD', P..'r', N, N)
  offered, slow = offered + 1, true
end
