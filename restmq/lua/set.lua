-- Changes the policy or settings.
-- KEYS m · ARGV db, a new epoch, then name and value of each; '' takes it back to what restmq.conf says
-- Returns the ms until the queue is due, -1 for never. It holds for every element added after.
--@include keys
--@include state
--@include save
--@include rules
--@include element
--@include wait
--@include hand
call('HSETNX', P..'a', 'ep', ARGV[2])
for i = 3, #ARGV, 2 do
  local name, value = ARGV[i], ARGV[i + 1]
  if value == '' then call('HDEL', P..'a', name) else call('HSET', P..'a', name, value) end
  if name == 'policy' then
    roundrobin = value == 'roundrobin'
    publish('c'..db, 'P '..call('HGET', P..'a', 'ep')..' 0\n'..(roundrobin and 'roundrobin' or 'broadcast')..'\n')
  else ruled = true end
end
unrule()
rest()
pump()
save()
return soon()
