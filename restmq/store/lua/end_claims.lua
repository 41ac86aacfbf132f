-- Ends claims, and notes when each queue is due next.
-- Keys: at zset, claimed zset.
-- Arguments: name, ms from now or '', name, ms…
index_verb('end_claims', function(keys, args)
  for at = 1, #args, 2 do
    local name, left = args[at], args[at + 1]
    local due = call('ZSCORE', keys[1], name)
    if due and tonumber(due) <= now() then call('ZREM', keys[1], name) end
    if left ~= '' then call('ZADD', keys[1], 'LT', now() + tonumber(left), name) end
    call('ZREM', keys[2], name)
  end
  return 1
end)
