-- Which flows are stopped. What ended is not stopped, though nobody swept yet.
-- KEYS m · ARGV db
-- Returns the scope and the ms until its stop ends, -1 for never, of each that is.
--@include keys
--@include state
--@include save
local out = {}
for _, scope in ipairs({'live', 'pull', 'add'}) do
  local till = tonumber(call('HGET', P..'a', 'stop_'..scope) or -1)
  if till == 0 then out[#out + 1], out[#out + 2] = scope, -1
  elseif till > time() then out[#out + 1], out[#out + 2] = scope, till - time() end
end
return out
