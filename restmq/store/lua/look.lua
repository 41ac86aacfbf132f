-- The ledger of a queue. Waiting elements are counted from what is stored, so that a wrong counter shows.
-- Returns {added, waiting, delayed, leased, dead, taken, delivered, acked, deleted, expired, purged, dropped, bytes,
-- 1 when started, 1 when round-robin, 1 when ever added to, consumers, position, GETs that wait}.
verb('look', FREES, function()
  Queue.look()
  if Q.packed and Element.expire_some() > 0 then Queue.save() end
  local there, leased, delayed, dead = Waiting.count()
  local rare = call('HMGET', K.about, 'deleted', 'expired', 'purged', 'dropped', 'passed')
  for at = 1, 5 do rare[at] = tonumber(rare[at] or 0) end
  local deleted, expired, purged, dropped, passed = unpack(rare)
  local consumers = 0
  for _, entry in ipairs(call('HVALS', K.listeners)) do
    consumers = consumers + tonumber(string.match(entry, '%d+$'))
  end
  return {Q.last - passed, there, delayed, leased, dead, Q.taken, Q.delivered, Q.acked, deleted, expired, purged, dropped,
    Q.bytes, Q.stopped and 0 or 1, Q.roundrobin and 1 or 0, Q.created and 1 or 0, consumers, Q.position,
    call('LLEN', K.waiters)}
end)
