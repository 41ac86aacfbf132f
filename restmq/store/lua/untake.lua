-- Brings back what was taken for a GET whose client had left: nobody has seen it.
-- KEYS m · ARGV db, epoch, N, value, the fourth word of take.lua, a word of this bringing back
-- What was purged meanwhile stays away and counts as purged.
-- Returns 1, or 0 when the queue was forgotten since, or Redis came back with what was before the take.
--@include keys
--@include state
--@include save
--@include rules
--@include element
--@include wait
--@include hand
if call('HGET', P..'a', 'ep') ~= ARGV[2] then return 0 end
-- Asked again because its answer was lost, it must not come back twice: it may be somebody's by now.
if not call('SET', P..'back:'..ARGV[6], '', 'NX', 'PX', 120000) then return 1 end
local N, value = ARGV[3], ARGV[4]
if tonumber(N) > n or find(N) then return 0 end   -- Redis lost the take
if tonumber(N) <= tonumber(call('HGET', P..'a', 'emptied') or 0) then
  taken = taken - 1
  count('purged', 1)
  save()
  return 1
end
local T, ends, D, C, F, errors = string.match(ARGV[5], '^(%d+) (%d+) (%d+) (%d+) (%d+)(.*)$')
call('HSET', P..'e', N, T..' '..value)
settries(N, tonumber(D), tonumber(C), tonumber(F), '-', errors)
if ends ~= '0' then
  call('ZADD', P..'t', ends, N)
  late(tonumber(ends))
end
bytes, taken = bytes + #value, taken - 1
again(N)
pump()
save()
return 1
