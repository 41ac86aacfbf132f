-- What was on its way and did not arrive waits again, at its key's place. D goes on, tries do not.
local function giveback(list)   -- N's; those that are not on their way are passed over
  if #list == 0 then return 0 end
  local back = 0
  for i, way in ipairs(call('HMGET', P..'y', unpack(list))) do
    if way then
      local N = list[i]
      local owner, D = string.match(way, '^(%S+) (%d+)')
      local _, C, F, _, errors = tries(N)
      call('HDEL', P..'y', N)
      if owner == '*' then call('ZREM', P..'b', N) else unway(owner, N) end
      settries(N, tonumber(D), C, F, '-', errors)
      again(N)
      back = back + 1
    end
  end
  return back
end
local function arrived(list)   -- N's that some socket has taken: they leave the queue
  if #list == 0 then return end
  local ids, gone = {}, {}
  for i, way in ipairs(call('HMGET', P..'y', unpack(list))) do
    if way then
      local owner, T, length = string.match(way, '^(%S+) %d+ (%d+) (%d+)$')
      gone[#gone + 1] = list[i]
      ids[#ids + 1] = list[i]..'-'..T
      bytes = bytes - tonumber(length)
      if owner ~= '*' then unway(owner, list[i]) end
    end
  end
  if #gone == 0 then return end
  call('XDEL', P..'q', unpack(ids))
  for _, hash in ipairs({'y', 'x', 'e'}) do call('HDEL', P..hash, unpack(gone)) end
  if due > 0 then call('ZREM', P..'t', unpack(gone)) end
  delivered = delivered + #gone
end
