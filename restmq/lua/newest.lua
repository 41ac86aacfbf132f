-- The newest waiting elements, untouched.
-- KEYS m · ARGV how many
-- Returns N, count, value…, newest first.
--@include keys
--@include state
if not packed then return {} end
--@include save
--@include element
local most, out, before = tonumber(ARGV[1]), {}, '+'
for _ = 1, 100 do   -- pages: the newest may be on their way, or over
  local page = call('XREVRANGE', P..'q', before, '-', 'COUNT', most)
  for _, e in ipairs(page) do
    local N = string.match(e[1], '^%d+')
    local at = slow and call('ZSCORE', P..'t', N)
    local over = at and tonumber(at) <= time()
    if #out < 3 * most and not over and not (slow and call('HEXISTS', P..'y', N) == 1) then
      local _, shown = tries(N)
      out[#out + 1] = N
      out[#out + 1] = tostring(shown)
      out[#out + 1] = e[2][2]
    end
    before = '('..e[1]
  end
  if #page < most or #out >= 3 * most then break end
end
return out
