-- An instance wants to see every add of this queue, or no more.
-- KEYS m · ARGV db, INST, 1 or 0
-- Returns 1.
--@include keys
--@include state
--@include save
--@include rules
if ARGV[3] == '1' then
  call('HSET', P..'taps', ARGV[2], 1)
  ruled = true
elseif call('HDEL', P..'taps', ARGV[2]) == 1 then unrule() end
save()
return 1
