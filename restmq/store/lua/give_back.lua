-- Gives back round-robin elements that an instance holds and cannot hand over.
-- Arguments: instance, epoch, then numbers.
-- Returns how many were given back.
verb('give_back', FREES, function(args)
  local instance, epoch = args[2], args[3]
  if not Q.packed then return 0 end
  Queue.begin()
  if Queue.epoch() ~= epoch then return 0 end
  local held = {}
  for at = 4, #args do
    if call('SISMEMBER', Keys.held(instance), args[at]) == 1 then held[#held + 1] = args[at] end
  end
  local given_back = Sent.give_back(held)
  Delivery.go_on()
  Queue.save()
  return given_back
end)
