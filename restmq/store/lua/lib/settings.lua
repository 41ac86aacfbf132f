-- The settings of this queue: its own, else those of restmq.conf. Times are in ms, 0 is none.
local last_use   -- ms of the use before this call, when the queue may be forgotten for idleness
local Settings = {}
local function read_settings()
  settings = defaults
  if not Q.governed then return end
  settings = {}
  for at, own in ipairs(call('HMGET', K.about, unpack(NAMES))) do
    settings[NAMES[at]] = own and (tonumber(own) or own) or defaults[NAMES[at]]
  end
end
function Queue.begin()   -- for a call that is a use of the queue
  Queue.look()
  read_settings()
  last_use = 0
  if Q.governed and settings.idle_ttl > 0 then
    last_use = Queue.counted('used')
    call('HSET', K.about, 'used', digits(now()))
  end
end
function Queue.create()   -- its first element comes, or its numbers are restored
  Q.created, Q.governed = true, Q.governed or governed_when_created
  Settings.count_idleness()
end
function Settings.count_idleness()   -- from now on it may be forgotten when nobody uses it for idle_ttl
  local idle = Q.governed and tonumber(call('HGET', K.about, 'idle_ttl') or defaults.idle_ttl) or 0
  if idle > 0 then
    call('HSET', K.about, 'used', digits(now()))
    Queue.due_at(now() + idle)
  end
end
function Settings.own()   -- its own: name, value…; sv counts their changes
  local names, found = {'policy', 'sv', unpack(NAMES)}, {}
  for at, own in ipairs(call('HMGET', K.about, unpack(names))) do
    if own then found[#found + 1], found[#found + 2] = names[at], own end
  end
  return found
end
function Settings.policy() return Q.roundrobin and 'roundrobin' or 'broadcast' end
function Settings.read_policy()   -- instances that listen hear of it
  Q.roundrobin = (call('HGET', K.about, 'policy') or defaults.policy) == 'roundrobin'
  if Q.listened then
    publish(Keys.broadcasts(), 'P '..Queue.epoch()..' 0\n'..Settings.policy()..'\n')
  end
end
function Settings.govern_no_more()   -- unless a setting, a stop or a tap is left: then adds are plain again
  for _, own in ipairs(call('HMGET', K.about, 'stop_live', 'stop_pull', 'stop_add', unpack(NAMES))) do
    if own then return end
  end
  if call('EXISTS', K.taps) == 0 then Q.governed = Q.created and governed_when_created end
end
