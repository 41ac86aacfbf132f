-- Stops or starts a flow: live, pull or add. A later stop of a scope replaces it.
-- KEYS m · ARGV db, 1 to stop or 0, ms it lasts or 0 for until it is started, scopes…
-- Returns the ms until the queue is due, -1 for never.
--@include keys
--@include state
--@include save
--@include rules
--@include element
--@include wait
--@include hand
local lasts = tonumber(ARGV[3])
for i = 4, #ARGV do
  local scope = ARGV[i]
  if ARGV[2] == '1' then
    call('HSET', P..'a', 'stop_'..scope, lasts > 0 and digits(time() + lasts) or '0')
    if lasts > 0 then late(time() + lasts) end
    if scope ~= 'live' or lasts > 0 then ruled = true end
  else call('HDEL', P..'a', 'stop_'..scope) end
  if scope == 'live' then stopped = ARGV[2] == '1' end
end
unrule()
offered = waiting()
pump()
save()
return soon()
