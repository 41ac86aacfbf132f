-- Deletes dead elements: at most 500 a call.
-- KEYS m · ARGV db
-- Returns how many.
--@include keys
--@include state
if not packed then return 0 end
--@include save
--@include rules
--@include element
local list = call('ZRANGE', P..'g', 0, 499)
for _, N in ipairs(list) do wipe(N) end
count('deleted', #list)
save()
return #list
