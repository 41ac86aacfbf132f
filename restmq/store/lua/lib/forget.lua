-- All elements go; with `forget` the counter, settings, keys and name too. Who is connected stays so.
local function empty()   -- how many there were
  local held = call('XLEN', P..'q') + call('HLEN', P..'e')
  for _, inst in ipairs(call('SMEMBERS', P..'ways')) do call('UNLINK', P..'way:'..inst) end
  for _, set in ipairs(call('LRANGE', P..'lost', 0, -1)) do call('UNLINK', P..set) end
  call('UNLINK', P..'q', P..'r', P..'e', P..'x', P..'y', P..'b', P..'t', P..'l', P..'d', P..'g', P..'u', P..'h',
    P..'void', P..'ways', P..'lost')
  call('HDEL', P..'a', 'gb')
  if live then publish('c'..db, 'Z '..call('HGET', P..'a', 'ep')..' 0\n\n') end   -- their leases are over
  bytes, sure, best, floor, cut, c = 0, pos, pos, pos, sum, n
  if not ruled then due = 0 end   -- else a stop or the queue's idleness may end then
  slow = due > 0
  return held
end
local function forget(epoch)   -- true when there was something
  local had = empty() > 0 or born
  call('UNLINK', P..'a', P..'k0', P..'k1')
  if not live and not waits and call('EXISTS', P..'taps') == 0 then
    call('DEL', M, P..'ring', P..'live', P..'from')   -- what is left of the deaf
    return had
  end
  due, slow = 0, false
  n, c, taken, acked, delivered, born, stopped = 0, 0, 0, 0, 0, false, false
  ruled = call('EXISTS', P..'taps') == 1
  call('HSET', P..'a', 'ep', epoch)   -- who listens hears the new life as one
  deal_by()
  save()
  return had
end
