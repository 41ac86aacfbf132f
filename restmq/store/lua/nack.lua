-- Gives leases back: the elements wait again, or later, or are dead: after too many failed tries, or at once.
-- KEYS m · ARGV db, then of each lease N, D or '' for whichever holds, epoch, when, 1 when the try failed, the
-- reason or ''. `when` is ms of delay, @ and a Unix time in ms, dead, or '' for what the rules say
-- Returns 1 for each, 0 when the lease is lost, -1 when there is no such element; last the ms
-- until the queue is due, -1 for never. Or an error reply, with nothing done: FAR.
--@include keys
--@include state
--@include save
--@include rules
--@include element
--@include lease
--@include wait
--@include hand
local out = {}
for i = 5, #ARGV, 6 do
  local at = string.match(ARGV[i], '^@(%d+)$')
  if at then ARGV[i] = digits(until_(at)) end
  if at and tonumber(ARGV[i]) > MOST then return redis.error_reply('FAR') end
end
for i = 2, #ARGV, 6 do
  local N, D, epoch, when, failed, reason = unpack(ARGV, i, i + 5)
  local held = holds(N, D, epoch)
  if held then release(N, failed == '1', tonumber(when), reason, when == 'dead') end
  out[#out + 1] = held and 1 or (packed and find(N) and 0 or -1)
end
if packed then
  pump()
  save()
end
out[#out + 1] = soon()
return out
