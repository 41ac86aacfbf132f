-- GETs that wait: each stands in wt with its instance, which is told when it should take again.
local function enlist(inst, first)   -- `first`: woken in vain, it keeps its place
  call(first and 'LPUSH' or 'RPUSH', P..'wt', inst)
  waits = true
end
local function wake(most)   -- at most 1,000 a call: the takes of those who were woken wake the next
  waits = waits and call('EXISTS', P..'wt') == 1   -- some may have left
  if not waits or halted('pull') then return end
  local owed = tonumber(call('HGET', P..'a', 'owed') or 0)
  if most + owed <= 0 then return end
  if owed > 0 then call('HDEL', P..'a', 'owed') end
  most = math.min(most + owed, (waiting()))
  local steps = 1000
  while most > 0 and steps > 0 do
    local woken, order = {}, {}
    for _, inst in ipairs(call('LPOP', P..'wt', math.min(most, steps)) or {}) do
      if not woken[inst] then order[#order + 1] = inst end
      woken[inst] = (woken[inst] or 0) + 1
      most, steps = most - 1, steps - 1
    end
    if #order == 0 then break end
    for _, inst in ipairs(order) do
      if publish('i'..db..':'..inst, 'W '..call('HGET', P..'a', 'ep')..' '..woken[inst]..'\n\n') == 0 then
        call('LREM', P..'wt', 0, inst)   -- it does not listen: it will ask again
        most = most + woken[inst]
      end
    end
  end
  if call('EXISTS', P..'wt') == 0 then waits = false
  elseif most > 0 then
    call('HSET', P..'a', 'owed', digits(most))
    late(time())
  end
end
