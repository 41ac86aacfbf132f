-- GETs of an instance wait no more: their clients have left.
-- KEYS m · ARGV db, INST, how many
-- Returns how many of them had been woken already; others were woken in their place.
--@include keys
--@include state
if not packed then return tonumber(ARGV[3]) end
--@include save
--@include rules
--@include element
--@include wait
local most = tonumber(ARGV[3])
local woken = most - call('LREM', P..'wt', -most, ARGV[2])
wake(woken)
save()
return woken
