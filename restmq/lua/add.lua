-- Adds values in order; offers them to whoever listens.
-- KEYS m · ARGV db, ms of adding, ttl in ms or '', an epoch for a newborn queue, values…
-- Returns {first number, 1 when the queue was born by this}; numbers follow without a gap.
--@include keys
--@include state
local adding = #ARGV - 4
if flags == 1 and ARGV[3] == '' then   -- nobody listens, nothing special: this is the hot path
  local T = '-'..ARGV[2]
  for i = 5, #ARGV do
    n, bytes = n + 1, bytes + #ARGV[i]
    call('XADD', P..'q', string.format('%.0f', n)..T, 'v', ARGV[i])
  end
  call('SET', M, struct.pack(FORM, n, bytes, c, due, taken, acked, delivered, pos, sure, best, sum, cut,
    floor, left, flags))
  return {n - adding + 1, 0}
end
--@include save
--@include element
--@include hand
local newborn = not born and 1 or 0
if not born then birth(ARGV[4]) end
for i = 5, #ARGV do
  n, bytes = n + 1, bytes + #ARGV[i]
  call('XADD', P..'q', digits(n)..'-'..ARGV[2], 'v', ARGV[i])
  if ARGV[3] ~= '' then
    local at = time() + tonumber(ARGV[3])
    call('ZADD', P..'t', digits(at), digits(n))
    slow = true
    if due == 0 or at < due then due = at end
  end
end
pump(ARGV[1])
save()
return {n - adding + 1, newborn}
