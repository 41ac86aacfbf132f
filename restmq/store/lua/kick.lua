-- Lets dead elements wait again. Their failed tries are forgotten. The count of their hand-outs stays.
-- Arguments: how many of the oldest; or 0, and numbers.
-- Returns the numbers of those that wait again.
local function restore_ttl(number)   -- its own ttl holds again, in place of dead_ttl
  local own = call('HGET', K.own_ttl, number)
  if not own then return end
  call('HDEL', K.own_ttl, number)
  if own == '0' then call('ZREM', K.expiring, number) else call('ZADD', K.expiring, own, number) end
end
verb('kick', FREES, function(args)
  local many = tonumber(args[2])
  if not Q.packed then return {} end
  Queue.begin()
  local numbers = many > 0 and call('ZRANGE', K.dead, 0, many - 1) or {unpack(args, 3)}
  local kicked = {}
  for _, number in ipairs(numbers) do
    if not Element.has_expired(number) and call('ZREM', K.dead, number) == 1 then
      Queue.count('gb', -#Element.find(number))
      restore_ttl(number)
      local tries = Element.tries(number)
      tries.failed, tries.owner = 0, '-'
      Element.set_tries(number, tries)
      Waiting.add_again(number)
      kicked[#kicked + 1] = number
    end
  end
  Delivery.go_on()
  Queue.save()
  return kicked
end)
