-- Sets the policy, or stops or starts the flow to live consumers.
-- KEYS m · ARGV db, 'policy' or 'stop', the value: broadcast or roundrobin, 1 or 0
-- Returns 1. It holds for every element added after.
--@include keys
--@include state
--@include save
--@include element
--@include hand
if ARGV[2] == 'policy' then roundrobin = ARGV[3] == 'roundrobin' else stopped = ARGV[3] == '1' end
call('HSET', P..'a', ARGV[2], ARGV[3])
pump(ARGV[1])
save()
return 1
