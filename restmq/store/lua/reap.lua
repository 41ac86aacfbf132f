-- A dead instance leaves the queue: its places in ring and line vanish, what it held goes back. What its
-- consumers lease stays theirs until the lease ends: they may acknowledge elsewhere.
-- KEYS m · ARGV db, INST, 1 when it may never come again: ids are those of one life
-- Returns 1 when there is more to give back: call again.
--@include keys
--@include state
if ARGV[3] == '1' then   -- what it asked before it knew must not put it back
  redis.call('SADD', P..'gone', ARGV[2])
  redis.call('PEXPIRE', P..'gone', 600000)
end
if not packed then return 0 end
--@include save
--@include rules
--@include element
--@include wait
--@include hand
--@include giveback
--@include settle
local inst = ARGV[2]
call('LREM', P..'ring', 0, inst)
call('HDEL', P..'live', inst)
call('HDEL', P..'from', inst)
if call('HDEL', P..'taps', inst) == 1 then unrule() end
call('LREM', P..'wt', 0, inst)
if call('EXISTS', P..'ring') == 0 then live = false end
local held = call('SRANDMEMBER', P..'way:'..inst, 500)
giveback(held)
if #held < 500 then call('SREM', P..'ways', inst) end
local more = settle()
offered = waiting()   -- it may have been woken and have taken nothing
pump()
save()
return (more or #held == 500) and 1 or 0
