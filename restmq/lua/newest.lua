-- The newest waiting elements, untouched.
-- KEYS m · ARGV how many
-- Returns N, count, value…, newest first.
--@include keys
--@include state
if not packed then return {} end
--@include save
--@include element
local out = {}
for _, e in ipairs(call('XREVRANGE', P..'q', '+', '-', 'COUNT', ARGV[1])) do
  local N = string.match(e[1], '^%d+')
  local at = slow and call('ZSCORE', P..'t', N)
  local over = at and tonumber(at) <= time()
  if not over and not (slow and call('HEXISTS', P..'y', N) == 1) then
    local _, shown = tries(N)
    out[#out + 1] = N
    out[#out + 1] = tostring(shown)
    out[#out + 1] = e[2][2]
  end
end
return out
