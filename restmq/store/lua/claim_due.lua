-- Claims queues in which something is due. The claim of an instance that died ends by itself.
-- Keys: at zset, claimed zset.
-- Arguments: how many.
-- Returns the ms until the next is due (0 when more are due now, -1 when none is), then names.
local CLAIM = 2000   -- ms for which a claim holds
local function end_claims(keys, from, to)
  for _, name in ipairs(call('ZRANGEBYSCORE', keys[2], from, to, 'LIMIT', 0, 100)) do
    call('ZREM', keys[2], name)
    call('ZADD', keys[1], 'LT', now(), name)
  end
end
index_verb('claim_due', function(keys, args)
  end_claims(keys, '-inf', now())
  end_claims(keys, '('..now() + CLAIM, '+inf')   -- Redis' clock was set back: they would hold too long
  local names = call('ZRANGEBYSCORE', keys[1], '-inf', now(), 'LIMIT', 0, args[1])
  for _, name in ipairs(names) do
    call('ZREM', keys[1], name)
    call('ZADD', keys[2], now() + CLAIM, name)
  end
  local following = call('ZRANGE', keys[1], 0, 0, 'WITHSCORES')[2]
  return {following and math.max(0, tonumber(following) - now()) or -1, unpack(names)}
end)
