-- Deletes one element wherever it is; with a lease, only if that still holds, and then it is acknowledged.
-- KEYS m · ARGV db, N, D or '', epoch
-- Returns 1, 0 when it is gone, -1 when the lease is lost.
--@include keys
--@include state
if not packed then return 0 end
--@include save
--@include rules
--@include element
--@include lease
--@include wait
--@include hand
local N, D, answer = ARGV[2], ARGV[3], 1
if ended(N) or not find(N) then answer = 0
elseif D ~= '' and not holds(N, D, ARGV[4]) then answer = -1
else
  wipe(N)
  if D == '' then count('deleted', 1) else acked = acked + 1 end
  pump()
end
save()
return answer
