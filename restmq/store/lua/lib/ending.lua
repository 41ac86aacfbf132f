-- Ends what is due: at most 250 of each kind in a call. Q.due is 0 when nothing is left, now when there is more.
local Ending = {}
function Ending.idle_until()   -- ms at which the queue is to be forgotten if it stays idle, or nil
  local ttl = settings.idle_ttl
  if not Q.governed or ttl == 0 then return end
  if Q.listened or Q.awaited or call('XLEN', K.stream) + call('HLEN', K.apart) + call('EXISTS', K.taps) > 0 then
    return now() + ttl
  end
  call('HSET', K.about, 'used', digits(last_use))   -- this call was no use
  return last_use + ttl
end
local function end_delays(numbers)
  if #numbers == 0 then return end
  call('ZREM', K.delayed, unpack(numbers))
  for _, number in ipairs(numbers) do Waiting.add_again(number) end
end
function Ending.sweep(held_until)   -- held_until: ms until which no lease ends, 0 for none
  if Q.due == 0 or Q.due > now() then return end
  local function over(key) return call('ZRANGEBYSCORE', key, '-inf', digits(now()), 'LIMIT', 0, 250) end
  Element.expire_some()
  if held_until <= now() then
    for _, number in ipairs(over(K.leased)) do Leases.release(number, true, nil, 'the lease ended') end
  end
  end_delays(over(K.delayed))
  Recovery.give_back_some()
  Q.due = call('EXISTS', K.lost) == 1 and now() or 0
  for _, key in ipairs({K.expiring, K.leased, K.delayed}) do
    local at = tonumber(call('ZRANGE', key, 0, 0, 'WITHSCORES')[2])
    if at then Queue.due_at(math.max(at, key == K.leased and held_until or 1)) end
  end
  Stops.sweep()
end
