-- Deletes dead elements: at most 500 a call.
-- Returns how many.
verb('bury', FREES, function()
  if not Q.packed then return 0 end
  Queue.begin()
  local numbers = call('ZRANGE', K.dead, 0, 499)
  for _, number in ipairs(numbers) do Element.delete(number) end
  Queue.count('deleted', #numbers)
  Queue.save()
  return #numbers
end)
