-- Prolongs a lease.
-- KEYS m · ARGV db, N, D or '' for whichever holds, epoch, ms
-- Returns {1, D, epoch}, {0} when the lease is lost, {-1} when there is no such element.
--@include keys
--@include state
if not packed then return {-1} end
--@include save
--@include rules
--@include element
--@include lease
local N, D, epoch, ms = ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])
if ended(N) or not find(N) or not holds(N, D, epoch) then
  save()
  return {find(N) and 0 or -1}
end
arrive(N, grip(N))
keep(N)   -- one that lives long must not hold a whole node of the stream
call('ZADD', P..'l', digits(time() + ms), N)
late(time() + ms)
save()
return {1, (tries(N)), call('HGET', P..'a', 'ep')}
