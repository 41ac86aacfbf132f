-- Stops of a flow: live, pull or add.
local Stops = {}
local SCOPES = {'live', 'pull', 'add'}
function Stops.ends(scope)   -- ms at which the stop ends, 0 for never; nil when it flows
  local at = Q.governed and tonumber(call('HGET', K.about, 'stop_'..scope) or nil)
  if at and (at == 0 or at > now()) then return at end
end
function Stops.refusal(scope)   -- an error reply when it is stopped
  local at = Stops.ends(scope)
  if at then return redis.error_reply('STOPPED '..digits(at > 0 and at - now() or 0)) end
end
function Stops.sweep()   -- ends those whose time is over
  for _, scope in ipairs(SCOPES) do
    local at = Q.governed and Queue.counted('stop_'..scope) or 0
    if at > 0 and at <= now() then
      call('HDEL', K.about, 'stop_'..scope)
      if scope == 'live' then Q.stopped = false end
      Settings.govern_no_more()
      if scope == 'pull' then Waiting.offer_all() end
    elseif at > 0 then Queue.due_at(at) end
  end
end
