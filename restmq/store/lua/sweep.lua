-- Ends what is due. This may open a window. It also lets handing over go on that met only elements which had ended.
-- Arguments: ms for which no lease ends yet, a new epoch.
-- Returns {ms until the next is due or '', 1 when the queue was idle and was forgotten}.
verb('sweep', FREES, function(args)
  local held_for, epoch = tonumber(args[2]), args[3]
  if not Q.packed then return {'', 0} end
  Queue.begin()
  local idle = Ending.idle_until()
  if idle and idle <= now() then
    Emptying.forget(epoch)
    return {'', 1}
  end
  Ending.sweep(now() + held_for)
  Broadcasts.settle()
  History.trim()
  if idle then Queue.due_at(idle) end
  Delivery.go_on()
  Queue.save()
  return {Q.due > 0 and math.max(0, Q.due - now()) or '', 0}
end)
