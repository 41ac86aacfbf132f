-- Empties the queue; with `forget` its counter, settings and name go too.
-- KEYS m · ARGV db, forget (1 or 0), a new epoch
-- Returns 1 when there was something. Whoever is connected stays connected.
--@include keys
--@include state
if not packed then return 0 end
--@include save
--@include rules
--@include forget
if ARGV[2] == '1' then return forget(ARGV[3]) and 1 or 0 end
local held = empty()
count('purged', held)
if n > 0 then call('HSET', P..'a', 'emptied', digits(n)) end   -- what is brought back from before: see untake.lua
save()
return held > 0 and 1 or 0
