-- Packs the state again and stores it when it changed.
local function digits(number) return string.format('%.0f', number) end
local born, slow, waits, live = flags % 2 >= 1, flags % 4 >= 2, flags % 8 >= 4, flags % 16 >= 8
local roundrobin, stopped, ruled = flags % 32 >= 16, flags % 64 >= 32, flags % 128 >= 64
local freed, offered = {}, 0   -- leases of live consumers that ended: INST -> N's; elements that now wait
local function publish(channel, text) return call('PUBLISH', P..channel, text) end
local function tell()   -- who leased them may have as many more; said before any of them is dealt again
  for inst, list in pairs(freed) do
    publish('i'..db..':'..inst, 'A '..call('HGET', P..'a', 'ep')..' 0\n'..table.concat(list, ' ')..'\n')
  end
  freed = {}
end
local function save()
  tell()
  if slow and due == 0
      and call('EXISTS', P..'r', P..'e', P..'x', P..'y', P..'t', P..'l', P..'d', P..'g') == 0 then slow = false end
  flags = (born and 1 or 0) + (slow and 2 or 0) + (waits and 4 or 0) + (live and 8 or 0)
    + (roundrobin and 16 or 0) + (stopped and 32 or 0) + (ruled and 64 or 0)
  local now = struct.pack(FORM, n, bytes, c, due, taken, acked, delivered, pos, sure, best, sum, cut,
    floor, left, flags)
  if now == packed then return end
  local told = n + due == 0 and not (born or live or waits or ruled or stopped) and call('HKEYS', P..'a')
  if told and #told < 2 and (told[1] or 'ep') == 'ep' then call('DEL', M, P..'a')   -- it only was looked at, or heard
  else call('SET', M, now) end
end
local function count(column, by) if by ~= 0 then call('HINCRBY', P..'a', column, digits(by)) end end
local clock
local function time()   -- Redis' own, in ms: what ends must not depend on which instance asks
  if not clock then
    local t = @time@
    clock = t[1] * 1000 + math.floor(t[2] / 1000)
  end
  return clock
end
local MOST = 31622400000   -- ms: 366 days, the most that anything is put off
local function until_(at) return math.max(0, tonumber(at) - time()) end   -- ms to a Unix time in ms
local function soon() return due > 0 and math.max(0, due - time()) or -1 end
local function late(at)   -- something is due then
  slow = true
  if due == 0 or at < due then due = at end
end
