-- Packs the state again and stores it when it changed.
local function digits(number) return string.format('%.0f', number) end
local born, slow, live = flags % 2 >= 1, flags % 4 >= 2, flags % 16 >= 8
local roundrobin, stopped = flags % 32 >= 16, flags % 64 >= 32
local function save()
  if slow and due == 0 and call('EXISTS', P..'r', P..'x', P..'y', P..'t') == 0 then slow = false end
  flags = (born and 1 or 0) + (slow and 2 or 0) + (live and 8 or 0)
    + (roundrobin and 16 or 0) + (stopped and 32 or 0)
  local now = struct.pack(FORM, n, bytes, c, due, taken, acked, delivered, pos, sure, best, sum, cut,
    floor, left, flags)
  if now ~= packed then call('SET', M, now) end
end
local function count(column, by) if by > 0 then call('HINCRBY', P..'a', column, by) end end
local function birth(epoch) born = true call('HSETNX', P..'a', 'ep', epoch) end
local clock
local function time()   -- Redis' own, in ms: what ends must not depend on which instance asks
  if not clock then
    local t = call('TIME')
    clock = t[1] * 1000 + math.floor(t[2] / 1000)
  end
  return clock
end
