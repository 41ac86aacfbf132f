-- Finding, counting and forgetting one element. N travels as a string of digits.
local function find(N)   -- value, T; nil when it is not there
  local got = call('XRANGE', P..'q', N, N, 'COUNT', 1)[1]
  if got then return got[2][2], string.match(got[1], '%-(%d+)$') end
end
local function tries(N)   -- D, C, F
  local x = slow and call('HGET', P..'x', N)
  if not x then return 0, 0, 0 end
  local D, C, F = string.match(x, '^(%d+) (%d+) (%d+)$')
  return tonumber(D), tonumber(C), tonumber(F)
end
local function settries(N, D, C, F)
  slow = true
  call('HSET', P..'x', N, D..' '..C..' '..F)
end
local function drop(N, T, length)   -- its stored bytes and all that is noted of it
  call('XDEL', P..'q', N..'-'..T)
  bytes = bytes - length
  if not slow then return end
  call('HDEL', P..'x', N)
  call('ZREM', P..'t', N)
  call('ZREM', P..'r', N)
  local way = call('HGET', P..'y', N)
  if way then
    call('HDEL', P..'y', N)
    local owner = string.match(way, '^%S+')
    if owner == '*' then call('ZREM', P..'b', N) else call('SREM', P..'way:'..owner, N) end
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
local function heads(most)   -- up to `most` waiting elements, oldest first: {N, T, value, was in r}
  local back = slow and call('ZRANGE', P..'r', 0, most - 1) or {}   -- all of r is older than what is fresh
  local fresh = #back < most and call('XRANGE', P..'q', digits(c + 1), '+', 'COUNT', most) or {}
  local out, i, j = {}, 1, 1
  while #out < most and (fresh[i] or back[j]) do
    local N, T
    if fresh[i] then N, T = string.match(fresh[i][1], '^(%d+)%-(%d+)$') end
    if N and (not back[j] or tonumber(N) < tonumber(back[j])) then
      if not ended(N) then out[#out + 1] = {N, T, fresh[i][2][2], false} end
      i = i + 1
    else
      N, j = back[j], j + 1
      if not ended(N) then
        local value, at = find(N)
        out[#out + 1] = {N, at, value, true}
      end
    end
  end
  return out, i + j - 2   -- the second: how many it looked at; as many as `most` means there may be more
end
