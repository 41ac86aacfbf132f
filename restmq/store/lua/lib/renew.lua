-- Redis came back with less than an instance has seen: numbers must not be given again, nor settings be
-- lost. The first that notices does it; the new epoch keeps the next from doing it once more.
-- What was on its way waits again, for whoever has it heard it in the life before. It may be much: what was
-- broadcast comes back by settle(), for nobody who listens joined before; what instances held as sweeps come to it.
-- The next may know later settings (sv), which then hold, unless the queue was told others since (ex is gone).
local function adopt(settings)
  call('HDEL', P..'a', 'policy', unpack(NAMES))
  for name, value in pairs(settings) do
    call('HSET', P..'a', name, value)
    if name ~= 'policy' and name ~= 'sv' then ruled = true end
  end
  deal_by()
end
local function renew(known, highest, position, settings, epoch, reborn)   -- true when it was done
  local here, told = call('HGET', P..'a', 'ep'), cjson.decode(settings)
  local later = tonumber(told.sv or 0) > tonumber(call('HGET', P..'a', 'sv') or 0)
  if later and here and known ~= '' and call('HGET', P..'a', 'ex') == known then adopt(told) end
  if known == '' or (here and here ~= known) or (not here and not reborn) then return end
  if here and highest <= n and position <= pos then return end
  local held = call('SMEMBERS', P..'ways')
  table.sort(held)
  for _, inst in ipairs(held) do
    local set = 'lost:'..epoch..':'..inst
    if call('EXISTS', P..'way:'..inst) == 1 then
      call('RENAME', P..'way:'..inst, P..set)
      call('RPUSH', P..'lost', set)
      late(time())
    end
  end
  call('UNLINK', P..'h', P..'void')
  if highest > n then count('passed', highest - n) end
  n, pos = math.max(n, highest), math.max(pos, position)
  best, floor, cut = pos, pos, sum
  for _, inst in ipairs(call('HKEYS', P..'from')) do call('HSET', P..'from', inst, digits(pos)..' '..digits(pos)) end
  call('HSET', P..'a', 'ep', epoch, 'ex', known)
  if later then adopt(told) end
  birth()
  return true
end
