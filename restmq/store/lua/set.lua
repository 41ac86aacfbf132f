-- Changes the policy or settings.
-- KEYS m · ARGV db, a new epoch, then name and value of each; '' takes it back to what restmq.conf says
-- Returns {ms until the queue is due, -1 for never, all its settings: name, value…}. It holds for every element
-- added after.
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
  if name == 'policy' then deal_by() else ruled = true end
end
call('HINCRBY', P..'a', 'sv', 1)
call('HDEL', P..'a', 'ex')
unrule()
rest()
pump()
save()
return {soon(), unpack(own())}
