-- What holds for this queue: its own settings, else those of restmq.conf. Times in ms, 0 is none.
local NAMES = {'history', 'history_bytes', 'max_deliveries', 'backoff', 'dead_ttl', 'max_length', 'max_bytes',
  'overflow', 'idle_ttl'}
local RULES = {history = @history@, history_bytes = @history_bytes@, max_deliveries = @max_deliveries@,
  backoff = '@backoff@', dead_ttl = @dead_ttl@, max_length = @max_length@, max_bytes = @max_bytes@,
  overflow = '@overflow@', idle_ttl = @idle_ttl@}
local rule, used = RULES, 0
if ruled then
  rule = {}
  for i, told in ipairs(call('HMGET', P..'a', unpack(NAMES))) do
    rule[NAMES[i]] = told and (tonumber(told) or told) or RULES[NAMES[i]]
  end
  if rule.idle_ttl > 0 then
    used = tonumber(call('HGET', P..'a', 'used') or 0)
    call('HSET', P..'a', 'used', digits(time()))
  end
end
local function rest()   -- from now on it may be forgotten when nobody uses it for idle_ttl
  local idle = ruled and tonumber(call('HGET', P..'a', 'idle_ttl') or RULES.idle_ttl) or 0
  if idle > 0 then
    call('HSET', P..'a', 'used', digits(time()))
    late(time() + idle)
  end
end
local function birth()
  born, ruled = true, ruled or @ruled@
  rest()
end
local function own()   -- what it was told itself: name, value…; sv counts its changes
  local names, found = {'policy', 'sv', unpack(NAMES)}, {}
  for i, told in ipairs(call('HMGET', P..'a', unpack(names))) do
    if told then found[#found + 1], found[#found + 2] = names[i], told end
  end
  return found
end
local function deal_by()   -- its policy; who listens hears it
  roundrobin = (call('HGET', P..'a', 'policy') or '@policy@') == 'roundrobin'
  if live then
    publish('c'..db, 'P '..call('HGET', P..'a', 'ep')..' 0\n'..(roundrobin and 'roundrobin' or 'broadcast')..'\n')
  end
end
local function unrule()   -- the last of its own rules, stops and taps may be gone: then adds are plain again
  local own = call('HMGET', P..'a', 'stop_live', 'stop_pull', 'stop_add', unpack(NAMES))
  for _, told in ipairs(own) do if told then return end end
  if call('EXISTS', P..'taps') == 0 then ruled = born and @ruled@ end
end
local function halted(scope)   -- the ms at which the stop ends, 0 for never; nil when it flows
  local till = ruled and call('HGET', P..'a', 'stop_'..scope)
  if not till then return end
  till = tonumber(till)
  if till == 0 or till > time() then return till end
end
local function refuse(scope)   -- an error reply when this scope is stopped
  local till = halted(scope)
  if till then return redis.error_reply('STOPPED '..digits(till > 0 and till - time() or 0)) end
end
