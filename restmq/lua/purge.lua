-- Empties the queue; with `forget` its counter, settings and name go too.
-- KEYS m · ARGV forget (1 or 0), a new epoch
-- Returns 1 when there was something. Whoever is connected stays connected.
--@include keys
--@include state
if not packed then return 0 end
--@include save
local held = call('XLEN', P..'q')
local forget = ARGV[1] == '1'
for _, way in ipairs(call('HVALS', P..'y')) do   -- also of instances that have left
  local owner = string.match(way, '^%S+')
  if owner ~= '*' then call('UNLINK', P..'way:'..owner) end
end
call('UNLINK', P..'q', P..'r', P..'x', P..'y', P..'b', P..'t', P..'h', P..'void')
bytes, due, sure, best, floor, cut, slow, c = 0, 0, pos, pos, pos, sum, false, n
if not forget then
  count('purged', held)
  save()
  return held > 0 and 1 or 0
end
local had = (born or held > 0) and 1 or 0
call('DEL', P..'a')
if not live then   -- what is left of the deaf would place them beyond the new life's positions
  call('DEL', M, P..'ring', P..'live', P..'from')
  return had
end
n, c, taken, acked, delivered, born, roundrobin, stopped = 0, 0, 0, 0, 0, false, false, false
call('HSET', P..'a', 'ep', ARGV[2])   -- who listens hears the new life as one
save()
return had
