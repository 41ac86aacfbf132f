-- An instance that joined again, perhaps under a new id, tells what its consumers lease: what holds is its own
-- from now on, and it hears when that ends.
-- KEYS m · ARGV db, INST, then N, D, epoch of each lease
-- Returns 1 for each, or 0 when it is over: its end was told while nobody heard.
--@include keys
--@include state
--@include save
--@include rules
--@include element
--@include lease
local out = {}
for i = 3, #ARGV, 3 do
  local N, held = ARGV[i], packed and holds(ARGV[i], ARGV[i + 1], ARGV[i + 2])
  local D, C, F, owner, errors = tries(N)
  local _, way = grip(N)
  if held and way then held = way == ARGV[2]
  elseif held and owner ~= ARGV[2] then settries(N, D, C, F, ARGV[2], errors) end
  out[#out + 1] = held and 1 or 0
end
if packed then save() end
return out
