-- The newest waiting elements, untouched.
-- KEYS m · ARGV db, how many
-- Returns N, count, value…, newest first.
--@include keys
--@include state
if not packed then return {} end
--@include save
--@include element
local most, out, before = tonumber(ARGV[2]), {}, '+'
local function show(N, value)
  local at = slow and call('ZSCORE', P..'t', N)
  if at and tonumber(at) <= time() then return end
  if slow and (call('HEXISTS', P..'y', N) == 1 or call('ZSCORE', P..'l', N)) then return end
  local _, shown = tries(N)
  out[#out + 1] = {tonumber(N), N, tostring(shown), value}
end
for _ = 1, 100 do   -- pages: the newest may be on their way, leased, or over
  local page = call('XREVRANGE', P..'q', before, '-', 'COUNT', most)
  for _, e in ipairs(page) do
    if #out < most then show(string.match(e[1], '^%d+'), e[2][2]) end
    before = '('..e[1]
  end
  if #page < most or #out >= most then break end
end
for _, N in ipairs(slow and call('ZREVRANGE', P..'r', 0, most - 1) or {}) do   -- those that lie in e
  local value, _, kept = find(N)
  if kept then show(N, value) end
end
table.sort(out, function(a, b) return a[1] > b[1] end)
local flat = {}
for i = 1, math.min(most, #out) do
  for k = 2, 4 do flat[#flat + 1] = out[i][k] end
end
return flat
