-- Looks at elements without touching them.
-- KEYS m · ARGV db, state (waiting, leased, delayed, dead, history), 'one' or 'way', N after which (0: from the
-- first) or the one, how many, P to search the history from, or N's that may be on their way
-- Returns of each: N, state, value, D, count, ms since it was added, ms until it is due or its lease or ttl
-- ends ('': never), its errors, a line each. Leased and delayed come in the order of their time, history in
-- the order of delivery. {'?'} when the N after which is not in that state any more; {'+', P} when it is not
-- among the 1,000 of the history that this call looked at: call again with that P.
--@include keys
--@include state
if not packed then return {} end
--@include save
--@include element
local state, after, most, out = ARGV[2], ARGV[3], tonumber(ARGV[4]), {}
local function show(N, state, value, T, at)
  local D, C, _, _, errors = tries(N)
  local way = string.match(slow and call('HGET', P..'y', N) or '', '^%S+ (%d+)')
  local left = at and tonumber(at) > 0 and digits(math.max(0, at - time())) or ''
  for _, word in ipairs({N, state, value, way or D, C, digits(math.max(0, time() - T)), left, errors}) do
    out[#out + 1] = tostring(word)
  end
end
local function told(N, state, at)
  local value, T = find(N)
  local ends = slow and call('ZSCORE', P..'t', N)
  if value and not (ends and tonumber(ends) <= time()) then show(N, state, value, T, at or ends) end
end
local function inorder(zset, state)   -- by time, from behind `after`; false when that is not in it
  local from = after == '0' and 0 or call('ZRANK', P..zset, after)
  if not from then return false end
  if after ~= '0' then from = from + 1 end
  local page = call('ZRANGE', P..zset, from, from + most - 1, 'WITHSCORES')
  for i = 1, #page, 2 do told(page[i], state, page[i + 1]) end
  return true
end
if state == 'leased' then return inorder('l', state) and out or {'?'}
elseif state == 'way' then
  for i = 5, #ARGV do
    if call('HEXISTS', P..'y', ARGV[i]) == 1 then told(ARGV[i], 'leased') end
  end
elseif state == 'delayed' then return inorder('d', state) and out or {'?'}
elseif state == 'dead' then
  for _, N in ipairs(call('ZRANGEBYSCORE', P..'g', '('..after, '+inf', 'LIMIT', 0, most)) do told(N, state) end
elseif state == 'history' then
  local from = '-'
  if after ~= '0' then
    local page = call('XRANGE', P..'h', ARGV[5] or '-', '+', 'COUNT', 1000)
    for _, e in ipairs(page) do
      if string.match(e[1], '%-(%d+)$') == after then from = '('..e[1] break end
    end
    if from == '-' and #page < 1000 then return {'?'} end
    if from == '-' then return {'+', digits(tonumber(string.match(page[1000][1], '^%d+')) + 1)} end
  end
  for _, e in ipairs(call('XRANGE', P..'h', from, '+', 'COUNT', most)) do
    local f = e[2]
    if not f[8] or tonumber(f[8]) > time() then show(string.match(e[1], '%-(%d+)$'), state, f[2], f[4], f[8]) end
  end
elseif state == 'one' then
  local N = after
  if slow and (call('ZSCORE', P..'l', N) or call('HEXISTS', P..'y', N) == 1) then told(N, 'leased', call('ZSCORE', P..'l', N))
  elseif slow and call('ZSCORE', P..'d', N) then told(N, 'delayed', call('ZSCORE', P..'d', N))
  elseif slow and call('ZSCORE', P..'g', N) then told(N, 'dead')
  else told(N, 'waiting') end
else
  local list, from = {}, math.max(tonumber(after), c)
  for _, N in ipairs(slow and call('ZRANGEBYSCORE', P..'r', '('..after, '+inf', 'LIMIT', 0, most) or {}) do
    list[#list + 1] = tonumber(N)
  end
  for _, e in ipairs(call('XRANGE', P..'q', digits(from + 1), '+', 'COUNT', most)) do
    list[#list + 1] = tonumber(string.match(e[1], '^%d+'))
  end
  table.sort(list)
  for i = 1, math.min(most, #list) do told(digits(list[i]), 'waiting') end
end
return out
