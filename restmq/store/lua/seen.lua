-- An instance that comes back to a queue after Redis was away tells what it knew of it.
-- KEYS m · ARGV db, epoch, highest N, settings as JSON, a new epoch, 1 when Redis' birth word is another
-- Returns {the epoch, '' when there is none, ms until something is due, -1 when nothing is, its settings: name, value…}.
--@include keys
--@include state
--@include save
--@include rules
--@include element
--@include wait
--@include hand
--@include giveback
--@include settle
--@include renew
if renew(ARGV[2], tonumber(ARGV[3]), 0, ARGV[4], ARGV[5], ARGV[6] == '1') then
  settle()
  pump()
end
save()
return {call('HGET', P..'a', 'ep') or '', soon(), unpack(own())}
