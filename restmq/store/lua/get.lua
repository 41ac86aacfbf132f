-- Shows the oldest waiting element and counts that it was shown.
-- KEYS m · ARGV db
-- Returns {N, count, value}; {1} when nothing waits, {0} when the queue was never added to, {2} when it
-- looked at many that had ended: call again.
--@include keys
--@include state
if not packed then return {0} end
--@include save
--@include rules
--@include element
local stop = refuse('pull')
if stop then return stop end
local looked, list = 0, {}
repeat
  local seen
  list, seen = heads(1)
  looked = looked + 1
until list[1] or seen == 0 or looked >= 1000
local answer = {born and 1 or 0}
if list[1] then
  local N = list[1][1]
  local D, C, F, owner, errors = tries(N)
  settries(N, D, C + 1, F, owner, errors)
  answer = {N, C + 1, list[1][3]}
elseif looked >= 1000 then answer = {2} end
save()
return answer
