-- Shows the oldest waiting element and counts that it was shown.
-- Returns {number, count, value}; or {1} when nothing waits; {0} when nothing was ever added; {2} when it looked at
-- many that had ended: call again.
verb('get', FREES, function()
  if not Q.packed then return {0} end
  Queue.begin()
  local stop = Stops.refusal('pull')
  if stop then return stop end
  local looked, oldest, seen = 0
  repeat
    oldest, seen = Waiting.oldest(1)
    looked = looked + 1
  until oldest[1] or seen == 0 or looked >= 1000
  local answer = {Q.created and 1 or 0}
  if oldest[1] then
    local number = oldest[1].number
    local tries = Element.tries(number)
    tries.shown = tries.shown + 1
    Element.set_tries(number, tries)
    answer = {number, tries.shown, oldest[1].value}
  elseif looked >= 1000 then
    answer = {2}
  end
  Queue.save()
  return answer
end)
