-- Round-robin elements that an instance holds and cannot hand over go back.
-- KEYS m · ARGV db, INST, epoch, N's…
-- Returns how many went back.
--@include keys
--@include state
if not packed then return 0 end
--@include save
--@include rules
--@include element
--@include wait
--@include hand
--@include giveback
if call('HGET', P..'a', 'ep') ~= ARGV[3] then return 0 end
local mine = {}
for i = 4, #ARGV do
  if call('SISMEMBER', P..'way:'..ARGV[2], ARGV[i]) == 1 then mine[#mine + 1] = ARGV[i] end
end
local back = giveback(mine)
pump()
save()
return back
