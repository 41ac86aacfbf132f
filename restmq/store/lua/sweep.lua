-- Ends what is due; that may open a window, and a hand-over that met only ended elements goes on.
-- KEYS m · ARGV db, ms for which no lease ends yet, a new epoch
-- Returns {ms until the next is due or '', 1 when the queue was forgotten for idleness}.
--@include keys
--@include state
if not packed then return {'', 0} end
--@include save
--@include rules
--@include element
--@include lease
--@include wait
--@include hand
--@include giveback
--@include settle
--@include sweep
--@include forget
local idle = resting()
if idle and idle <= time() then
  forget(ARGV[3])
  return {'', 1}
end
sweep(time() + tonumber(ARGV[2]))
settle()
trim()
if idle then late(idle) end
pump()
save()
return {due > 0 and math.max(0, due - time()) or '', 0}
