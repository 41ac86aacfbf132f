-- An instance that comes back to a queue after Redis was away says what it has seen of it.
-- Arguments: epoch, highest number, settings as JSON, a new epoch, 1 when Redis holds other data than at that time.
-- Returns {the epoch or '', ms until something is due or -1, its settings: name, value…}.
verb('seen', FREES, function(args)
  local seen_epoch, number, seen, epoch, other_data = unpack(args, 2, 6)
  Queue.begin()
  if Recovery.notice(seen_epoch, tonumber(number), 0, seen, epoch, other_data == '1') then
    Broadcasts.settle()
    Delivery.go_on()
  end
  Queue.save()
  return {Queue.epoch() or '', Queue.due_in(), unpack(Settings.own())}
end)
