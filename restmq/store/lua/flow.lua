-- Stops or starts flows: live, pull, add. A later stop of a flow replaces an earlier one.
-- Arguments: 1 to stop or 0; ms that the stop lasts, or 0 for until it is started; names of flows…
-- Returns the ms until the queue is due, -1 for never.
verb('flow', FREES, function(args)
  local stopping, lasts = args[2] == '1', tonumber(args[3])
  Queue.begin()
  for at = 4, #args do
    local scope = args[at]
    if stopping then
      call('HSET', K.about, 'stop_'..scope, lasts > 0 and digits(now() + lasts) or '0')
      if lasts > 0 then Queue.due_at(now() + lasts) end
      if scope ~= 'live' or lasts > 0 then Q.governed = true end
    else
      call('HDEL', K.about, 'stop_'..scope)
    end
    if scope == 'live' then Q.stopped = stopping end
  end
  Settings.govern_no_more()
  Waiting.offer_all()
  Delivery.go_on()
  Queue.save()
  return Queue.due_in()
end)
