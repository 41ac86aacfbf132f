-- An instance says how many of its consumers take elements of this queue; the numbers are absolute,
-- so that it may say it twice. It joins with the first, and leaves with count 0.
-- KEYS m · ARGV db, INST, ready, stuck, count, P confirmed, and what it knew: epoch or '', highest N,
-- highest P, policy, P after which it wants history or '', a new epoch
-- Returns {epoch, P, N, policy, 1 when history misses some of what it wanted, N's on their way to it,
-- history from there: P, N, value…}
--@include keys
--@include state
--@include save
--@include element
--@include hand
--@include giveback
--@include settle
local db, inst, listening = ARGV[1], ARGV[2], tonumber(ARGV[5])
local epoch = call('HGET', P..'a', 'ep')
if ARGV[7] ~= '' and (epoch == ARGV[7] or not epoch)
    and (tonumber(ARGV[8]) > n or tonumber(ARGV[9]) > pos) then   -- Redis came back with less
  n, pos = math.max(n, tonumber(ARGV[8])), math.max(pos, tonumber(ARGV[9]))
  sure, best, floor, cut, epoch, born = pos, pos, pos, sum, ARGV[12], true
  call('HSET', P..'a', 'ep', epoch, 'policy', ARGV[10])
  roundrobin = ARGV[10] == 'roundrobin'
  local held = call('XLEN', P..'q')   -- what went beyond is told as dropped: the books must balance
  local rare = 0
  for _, v in ipairs(call('HMGET', P..'a', 'deleted', 'expired', 'purged')) do rare = rare + tonumber(v or 0) end
  call('HSET', P..'a', 'dropped', digits(n - held - taken - delivered - acked - rare))
end
if not epoch then
  epoch = ARGV[12]
  call('HSET', P..'a', 'ep', epoch)
end
if listening > 0 then
  if call('HEXISTS', P..'live', inst) == 0 or call('HEXISTS', P..'from', inst) == 0 then
    call('LREM', P..'ring', 0, inst)
    call('RPUSH', P..'ring', inst)
    call('HSETNX', P..'from', inst, digits(pos)..' '..digits(pos))
  end
  call('HSET', P..'live', inst, ARGV[3]..' '..ARGV[4]..' '..ARGV[5])
  live = true
end
confirm(inst, tonumber(ARGV[6]))
if listening == 0 then
  settle()   -- while it still counts
  call('LREM', P..'ring', 0, inst)
  call('HDEL', P..'live', inst)
  call('HDEL', P..'from', inst)
  if call('EXISTS', P..'ring') == 0 then live = false end
end
local history, missing, held = {}, 0, {}
if ARGV[11] ~= '' then
  local after = tonumber(ARGV[11])
  if after < floor then missing = 1 end
  for _, e in ipairs(call('XRANGE', P..'h', digits(after + 1), '+', 'COUNT', 1000)) do
    local at, N = string.match(e[1], '^(%d+)%-(%d+)$')
    history[#history + 1] = at
    history[#history + 1] = N
    history[#history + 1] = e[2][2]
  end
  held = call('SMEMBERS', P..'way:'..inst)
end
local at = pos
settle()
pump(db)
save()
return {epoch, at, n, roundrobin and 'roundrobin' or 'broadcast', missing, held, history}
