-- Acknowledges leases: the elements are done with.
-- KEYS m · ARGV db, then N, D, epoch of each lease
-- Returns 1 for each, or 0 when the lease is lost.
--@include keys
--@include state
--@include save
--@include rules
--@include element
--@include lease
local out = {}
for i = 2, #ARGV, 3 do
  local held = packed and holds(ARGV[i], ARGV[i + 1], ARGV[i + 2])
  if held then
    wipe(ARGV[i])
    acked = acked + 1
  end
  out[#out + 1] = held and 1 or 0
end
if packed then save() end
return out
