-- Takes the oldest waiting elements out of the queue.
-- KEYS m · ARGV how many
-- Returns N, count, value, N, count, value… and, last and alone, 1 when it looked at 1,000 and there
-- may be more: call again.
--@include keys
--@include state
local most = tonumber(ARGV[1])
if not packed then return {} end
if flags % 4 < 2 then
  local found = call('XRANGE', P..'q', string.format('%.0f', c + 1), '+', 'COUNT', most)
  if #found == 0 then return {} end
  local ids, out = {}, {}
  for i, e in ipairs(found) do
    local value = e[2][2]
    ids[i] = e[1]
    out[3 * i - 2], out[3 * i - 1], out[3 * i] = string.match(e[1], '^%d+'), '0', value
    bytes = bytes - #value
  end
  call('XDEL', P..'q', unpack(ids))
  taken = taken + #ids
  call('SET', M, struct.pack(FORM, n, bytes, c, due, taken, acked, delivered, pos, sure, best, sum, cut,
    floor, left, flags))
  return out
end
--@include save
--@include element
local out, looked = {}, 0
repeat   -- a run of elements whose ttl is over must not read as "nothing waits"
  local list, seen = heads(most - #out / 3)
  looked = looked + seen
  for _, e in ipairs(list) do
    local _, shown = tries(e[1])
    drop(e[1], e[2], #e[3])
    out[#out + 1] = e[1]
    out[#out + 1] = tostring(shown)
    out[#out + 1] = e[3]
  end
  taken = taken + #list
until seen == 0 or #out >= 3 * most or looked >= 1000
if #out < 3 * most and looked >= 1000 then out[#out + 1] = 1 end
save()
return out
