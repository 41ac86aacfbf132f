-- Redis came back with less than an instance has seen of a queue. Numbers must not be given twice, and settings must
-- not be lost. The first instance that notices repairs this; the new epoch keeps the next one from doing it once more.
local Recovery = {}
-- The next instance may know later settings (sv). These hold, unless somebody has changed them since (ex is gone).
local function take_over_settings(seen)
  call('HDEL', K.about, 'policy', unpack(NAMES))
  for name, value in pairs(seen) do
    call('HSET', K.about, name, value)
    if name ~= 'policy' and name ~= 'sv' then Q.governed = true end
  end
  Settings.read_policy()
end
-- Elements that were in flight wait again, because their consumers heard them in the epoch before. These may be many.
-- Broadcasts come back by Broadcasts.settle(), because no instance that listens joined before them. Elements that
-- instances held come back by Recovery.give_back_some().
local function set_aside_what_was_held(epoch)
  local instances = call('SMEMBERS', K.holders)
  table.sort(instances)
  for _, instance in ipairs(instances) do
    if call('EXISTS', Keys.held(instance)) == 1 then
      local name = 'lost:'..epoch..':'..instance
      call('RENAME', Keys.held(instance), K.prefix..name)
      call('RPUSH', K.lost, name)
      Queue.due_at(now())
    end
  end
end
function Recovery.give_back_some()   -- a step of 250
  local name = call('LINDEX', K.lost, 0)
  if not name then return end
  local numbers = call('SPOP', K.prefix..name, 250)
  Sent.give_back(numbers)
  if #numbers < 250 then call('LPOP', K.lost) end
end
-- What an instance has seen: the epoch or '', the highest number and position, settings as JSON. `epoch` is a new one;
-- other_data: whether Redis holds other data than at that time. Answers whether the queue begins that new epoch.
function Recovery.notice(seen_epoch, number, position, seen_settings, epoch, other_data)
  local here, seen = Queue.epoch(), cjson.decode(seen_settings)
  local later = tonumber(seen.sv or 0) > Queue.counted('sv')
  if later and here and seen_epoch ~= '' and call('HGET', K.about, 'ex') == seen_epoch then take_over_settings(seen) end
  if seen_epoch == '' or (here and here ~= seen_epoch) or (not here and not other_data) then return false end
  if here and number <= Q.last and position <= Q.position then return false end
  set_aside_what_was_held(epoch)
  call('UNLINK', K.history, K.taken_back)
  if number > Q.last then Queue.count('passed', number - Q.last) end
  Q.last, Q.position = math.max(Q.last, number), math.max(Q.position, position)
  Q.reached, Q.floor, Q.cut = Q.position, Q.position, Q.sum
  local at = digits(Q.position)
  for _, instance in ipairs(call('HKEYS', K.joined)) do call('HSET', K.joined, instance, at..' '..at) end
  call('HSET', K.about, 'ep', epoch, 'ex', seen_epoch)
  if later then take_over_settings(seen) end
  Queue.create()
  return true
end
