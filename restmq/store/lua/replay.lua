-- History for a consumer that comes back, or asks for some of the past.
-- KEYS m · ARGV db, what ('after', 'key', 'last', 'ago', 'all', 'now'), P, N, how many or ms, how many at the most,
-- a new epoch, how many bytes of values (the last may pass it)
-- Returns {epoch, P now, P before the first kept, P it starts after, P up to which this went, then P, N,
-- value…}; what has ended is left out.
--@include keys
--@include state
--@include save
local what, which, most = ARGV[2], tonumber(ARGV[3]) or 0, tonumber(ARGV[4])
local limit = tonumber(ARGV[6]) or 1048576
call('HSETNX', P..'a', 'ep', ARGV[5])
local start = pos
if what == 'after' then start = which
elseif what == 'last' then start = math.max(0, pos - which)
elseif what == 'all' then start = floor
elseif what == 'key' then   -- behind its place among the newest thousand; 0: it is not known how much is missing
  start = 0
  local to, steps = '+', 20
  repeat
    local some = call('XREVRANGE', P..'h', to, '-', 'COUNT', 50)
    for _, e in ipairs(some) do
      local at, N = string.match(e[1], '^(%d+)%-(%d+)$')
      if N == ARGV[3] then start = tonumber(at) break end
      to = '('..e[1]
    end
    steps = steps - 1
  until start > 0 or steps == 0 or #some < 50
elseif what == 'ago' then   -- the first not older, by halves
  local low, high, since = floor, pos, time() - which
  while low < high do
    local mid = math.floor((low + high) / 2)
    local e = call('XRANGE', P..'h', digits(mid + 1), '+', 'COUNT', 1)[1]
    if e and tonumber(e[2][4]) < since then low = mid + 1 else high = mid end
  end
  start = low
  if low == floor then   -- what is not kept may have been of that time
    local e = call('XRANGE', P..'h', '-', '+', 'COUNT', 1)[1]
    if not e or tonumber(e[2][4]) >= since then start = 0 end
  end
end
local out, to, size, from, step = {}, start, 0, digits(start + 1), 4
while start < pos and most > 0 and size <= limit do   -- a few at a time: COUNT reads all, and values may be large
  local asked = math.min(step, most)
  local some = call('XRANGE', P..'h', from, '+', 'COUNT', asked)
  for _, e in ipairs(some) do
    local at, N = string.match(e[1], '^(%d+)%-(%d+)$')
    local f = e[2]
    if size > limit then break end
    to, size, from = tonumber(at), size + #f[2], '('..e[1]
    if not f[8] or tonumber(f[8]) > time() then
      out[#out + 1], out[#out + 2], out[#out + 3] = at, N, f[2]
    end
  end
  most, step = #some == asked and most - asked or 0, 4 * step
end
if #out == 0 and to == start then to = math.max(start, pos) end
save()
return {call('HGET', P..'a', 'ep') or ARGV[5], pos, floor, start, to, unpack(out)}
