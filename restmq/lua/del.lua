-- Deletes one element wherever it is.
-- KEYS m · ARGV db, N
-- Returns 1, or 0 when it is gone.
--@include keys
--@include state
if not packed then return 0 end
--@include save
--@include element
--@include hand
if ended(ARGV[2]) or not wipe(ARGV[2]) then
  save()
  return 0
end
count('deleted', 1)
pump(ARGV[1])
save()
return 1
