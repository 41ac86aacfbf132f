-- An instance says how many of its consumers take elements of this queue; the numbers are absolute,
-- so that it may say it twice. It joins with the first, and leaves with count 0.
-- KEYS m · ARGV db, INST, ready, room, count, P confirmed, and what it knew: epoch or '', highest N,
-- highest P, settings as JSON, a new epoch, 1 when Redis' birth word is another than when it knew this, P up to
-- which nobody here will take what was broadcast, or 0: it counts as one that joins there
-- Returns the error GIVENUP when it was reaped, or {epoch, P, N, policy, ms until something is due or -1, the
-- queue's settings: name, value…}; what it missed up to P it reads with replay.lua, what is on its way to it
-- with SSCAN from way:INST
--@include keys
--@include state
--@include save
--@include rules
--@include element
--@include wait
--@include hand
--@include giveback
--@include settle
--@include renew
local inst, listening = ARGV[2], tonumber(ARGV[5])
if call('SISMEMBER', P..'gone', inst) == 1 then return redis.error_reply('GIVENUP') end
renew(ARGV[7], tonumber(ARGV[8]), tonumber(ARGV[9]), ARGV[10], ARGV[11], ARGV[12] == '1')
call('HSETNX', P..'a', 'ep', ARGV[11])
if listening > 0 then
  if call('HEXISTS', P..'live', inst) == 0 or call('HEXISTS', P..'from', inst) == 0 then
    call('LREM', P..'ring', 0, inst)
    call('RPUSH', P..'ring', inst)
    call('HSETNX', P..'from', inst, digits(pos)..' '..digits(pos))
  end
  call('HSET', P..'live', inst, ARGV[3]..' '..ARGV[4]..' '..ARGV[5])
  if ARGV[3] ~= '0' then   -- who came last is ready for what follows, however far the others are
    best = math.max(best, tonumber(string.match(call('HGET', P..'from', inst) or '', '%d+$')) or 0)
  end
  live = true
end
if ARGV[7] == call('HGET', P..'a', 'ep') then confirm(inst, tonumber(ARGV[6]), tonumber(ARGV[13] or 0)) end
if listening == 0 then
  settle()   -- while it still counts
  call('LREM', P..'ring', 0, inst)
  call('HDEL', P..'live', inst)
  call('HDEL', P..'from', inst)
  if call('EXISTS', P..'way:'..inst) == 0 then call('SREM', P..'ways', inst) end
  if call('EXISTS', P..'ring') == 0 then live, offered = false, waiting() end
end
local at, epoch = pos, call('HGET', P..'a', 'ep')
settle()
pump()
save()
return {epoch, at, n, roundrobin and 'roundrobin' or 'broadcast', soon(), own()}
