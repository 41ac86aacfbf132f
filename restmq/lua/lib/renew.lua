-- Redis came back with less than an instance has seen: numbers must not be given again, nor settings be
-- lost. The first that notices does it; the new epoch keeps the next from doing it once more.
-- What was on its way waits again, for whoever has it heard it in the life before. It may be much: what was
-- broadcast comes back by settle(), for nobody who listens joined before; what instances held as sweeps come to it.
local function renew(known, highest, position, settings, epoch, reborn)   -- true when it was done
  local here = call('HGET', P..'a', 'ep')
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
  n, pos = math.max(n, highest), math.max(pos, position)
  best, floor, cut = pos, pos, sum
  for _, inst in ipairs(call('HKEYS', P..'from')) do call('HSET', P..'from', inst, digits(pos)..' '..digits(pos)) end
  for name, value in pairs(cjson.decode(settings)) do
    call('HSET', P..'a', name, value)
    if name ~= 'policy' then ruled = true end
  end
  roundrobin = call('HGET', P..'a', 'policy') == 'roundrobin'
  call('HSET', P..'a', 'ep', epoch)
  birth()
  local gone = n - call('XLEN', P..'q') - call('HLEN', P..'e') - taken - delivered - acked
  for _, by in ipairs(call('HMGET', P..'a', 'deleted', 'expired', 'purged')) do gone = gone - tonumber(by or 0) end
  call('HSET', P..'a', 'dropped', digits(gone))   -- what went beyond: the books must balance
  return true
end
