-- An instance tells what its sockets have taken; that opens the window for the next chunk.
-- KEYS m · ARGV db, INST, epoch, P up to which broadcasts are out or 0, 'READY ROOM COUNT' as live.lua has them and
-- the highest P that is out, though one before it may be stuck, how many N's follow, N's of round-robin elements, then N and ms of those that its consumers lease
-- Returns ms until something is due, -1 when nothing is.
--@include keys
--@include state
if not packed then return -1 end
--@include save
--@include rules
--@include element
--@include lease
--@include wait
--@include hand
--@include giveback
--@include settle
if call('HGET', P..'a', 'ep') ~= ARGV[3] then return -1 end   -- of another life of the queue
local listening, out = string.match(ARGV[5], '^(%d+ %d+ %d+) ?(%d*)$')
if call('HEXISTS', P..'live', ARGV[2]) == 1 then call('HSET', P..'live', ARGV[2], listening) end
local list, last = {}, 6 + tonumber(ARGV[6])
for i = 7, last do list[#list + 1] = ARGV[i] end
arrived(list)
for i = last + 1, #ARGV, 2 do
  local N = ARGV[i]
  local owner, D = string.match(call('HGET', P..'y', N) or '', '^(%S+) (%d+)')
  if owner == ARGV[2] then
    call('HDEL', P..'y', N)
    unway(owner, N)
    lease(N, tonumber(D), tonumber(ARGV[i + 1]), owner)
  end
end
confirm(ARGV[2], tonumber(ARGV[4]), 0)
best = math.max(best, math.min(pos, tonumber(out) or 0))   -- one that is stuck stops nobody
settle()
trim()   -- what was unsure could not be cut
pump()
save()
return soon()
