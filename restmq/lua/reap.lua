-- A dead instance leaves the queue: its places in the ring vanish, what it held goes back.
-- KEYS m · ARGV db, INST
-- Returns 1 when it held more than 500: call again.
--@include keys
--@include state
if not packed then return 0 end
--@include save
--@include element
--@include hand
--@include giveback
--@include settle
local inst = ARGV[2]
call('LREM', P..'ring', 0, inst)
call('HDEL', P..'live', inst)
call('HDEL', P..'from', inst)
if call('EXISTS', P..'ring') == 0 then live = false end
local held = call('SRANDMEMBER', P..'way:'..inst, 500)
giveback(held)
settle()
pump(ARGV[1])
save()
return #held == 500 and 1 or 0
