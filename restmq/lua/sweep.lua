-- Ends what is due; that may open a window, and a hand-over that met only ended elements goes on.
-- KEYS m · ARGV db
-- Returns the ms at which the next is due, or ''.
--@include keys
--@include state
if not packed then return '' end
--@include save
--@include element
--@include hand
--@include sweep
sweep()
pump(ARGV[1])
save()
return due > 0 and digits(due) or ''
