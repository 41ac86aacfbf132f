-- An instance tells what its sockets have taken; that opens the window for the next chunk.
-- KEYS m · ARGV db, INST, epoch, P up to which broadcasts are out or 0, N's of round-robin elements…
-- Returns P that is sure.
--@include keys
--@include state
if not packed then return 0 end
--@include save
--@include element
--@include hand
--@include giveback
--@include settle
if call('HGET', P..'a', 'ep') ~= ARGV[3] then return 0 end   -- of another life of the queue
local list = {}
for i = 5, #ARGV do list[#list + 1] = ARGV[i] end
arrived(list)
confirm(ARGV[2], tonumber(ARGV[4]))
settle()
pump(ARGV[1])
save()
return sure
