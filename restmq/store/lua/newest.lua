-- The newest waiting elements, unchanged.
-- Arguments: how many.
-- Returns number, count, value…, newest first.
local function show(found, number, value)   -- unless it has ended, is in flight, or is leased
  local ends = Q.special and call('ZSCORE', K.expiring, number)
  if ends and tonumber(ends) <= now() then return end
  if Q.special and (call('HEXISTS', K.sent, number) == 1 or call('ZSCORE', K.leased, number)) then return end
  found[#found + 1] = {number = number, shown = Element.tries(number).shown, value = value}
end
verb('newest', LOOKS, function(args)
  local most, found, before = tonumber(args[2]), {}, '+'
  if not Q.packed then return {} end
  Queue.look()
  for _ = 1, 100 do   -- page by page: the newest may have ended, be in flight, or be leased
    local page = call('XREVRANGE', K.stream, before, '-', 'COUNT', most)
    for _, entry in ipairs(page) do
      if #found < most then show(found, string.match(entry[1], '^%d+'), entry[2][2]) end
      before = '('..entry[1]
    end
    if #page < most or #found >= most then break end
  end
  for _, number in ipairs(Q.special and call('ZREVRANGE', K.again, 0, most - 1) or {}) do   -- those that lie apart
    local value, _, apart = Element.find(number)
    if apart then show(found, number, value) end
  end
  table.sort(found, function(one, other) return tonumber(one.number) > tonumber(other.number) end)
  local answer = {}
  for at = 1, math.min(most, #found) do
    answer[3 * at - 2], answer[3 * at - 1] = found[at].number, tostring(found[at].shown)
    answer[3 * at] = found[at].value
  end
  return answer
end)
