-- Ends what is due.
-- KEYS m · no ARGV
-- Returns the ms at which the next is due, or ''.
--@include keys
--@include state
if not packed then return '' end
--@include save
--@include element
--@include sweep
sweep()
save()
return due > 0 and digits(due) or ''
