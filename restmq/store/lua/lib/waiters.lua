-- GETs that wait. Each stands in `waiters` as its instance, which is told when the GET should take again.
local Waiters = {}
function Waiters.add(instance, first)   -- `first`: it was woken in vain, and keeps its place
  call(first and 'LPUSH' or 'RPUSH', K.waiters, instance)
  Q.awaited = true
end
local function pop(most)   -- the instances of the first ones, and how often each
  local order, times = {}, {}
  local popped = call('LPOP', K.waiters, most) or {}
  for _, instance in ipairs(popped) do
    if not times[instance] then order[#order + 1] = instance end
    times[instance] = (times[instance] or 0) + 1
  end
  return order, times, #popped
end
function Waiters.wake(most)   -- at most 1,000 in a call: the takes of those that were woken wake the next
  Q.awaited = Q.awaited and call('EXISTS', K.waiters) == 1   -- the last may have left
  if not Q.awaited or Stops.ends('pull') then return end
  local owed = Queue.counted('owed')
  if most + owed <= 0 then return end
  if owed > 0 then call('HDEL', K.about, 'owed') end
  most = math.min(most + owed, (Waiting.count()))
  local steps = 1000
  while most > 0 and steps > 0 do
    local order, times, popped = pop(math.min(most, steps))
    if popped == 0 then break end
    most, steps = most - popped, steps - popped
    for _, instance in ipairs(order) do
      if publish(Keys.instance_channel(instance), 'W '..Queue.epoch()..' '..times[instance]..'\n\n') == 0 then
        call('LREM', K.waiters, 0, instance)   -- it does not listen: it will ask again
        most = most + times[instance]
      end
    end
  end
  if call('EXISTS', K.waiters) == 0 then
    Q.awaited = false
  elseif most > 0 then
    call('HSET', K.about, 'owed', digits(most))
    Queue.due_at(now())
  end
end
