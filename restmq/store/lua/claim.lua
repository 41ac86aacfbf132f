-- An instance that joined again, perhaps under a new id, says which elements its consumers lease. Leases that still
-- hold are its own from now on, and it hears when they end.
-- Arguments: instance, then number, handed, epoch of each lease.
-- Returns 1 for each, or 0 when it is over: the message of its end came while the instance heard nothing.
local function claim(instance, number, handed, epoch)   -- whether it is the instance's from now on
  if not Q.packed or not Leases.holds(number, handed, epoch) then return false end
  local _, sent_to = Leases.holder(number)
  if sent_to then return sent_to == instance end
  local tries = Element.tries(number)
  if tries.owner ~= instance then
    tries.owner = instance
    Element.set_tries(number, tries)
  end
  return true
end
verb('claim', FREES, function(args)
  local instance, answers = args[2], {}
  Queue.begin()
  for at = 3, #args, 3 do
    answers[#answers + 1] = claim(instance, args[at], args[at + 1], args[at + 2]) and 1 or 0
  end
  if Q.packed then Queue.save() end
  return answers
end)
