-- The queue's hot state: one GET, one SET. Numbers are doubles, exact to 2^53.
--   n last number, bytes stored, c cursor (all of q up to c is handed out or in r), due ms of the next
--   end of a ttl, lease, delay or stop (0 none), taken acked delivered, pos last P, sure P up to which
--   broadcasts are confirmed, best highest P confirmed by anyone, sum bytes of history ever, cut the
--   same before the first kept, floor P before the first kept, left elements of this turn still owed
--   to the ring's head
--   flags: 1 born, 2 something beyond plain waiting (r e x y t l d g), 4 somebody waits, 8 somebody
--   listens, 16 round-robin, 32 live stopped, 64 has rules, other stops or taps; of a queue that was never
--   used, what restmq.conf's policy makes of them
local FORM = '>ddddddddddddddB'
local n, bytes, c, due, taken, acked, delivered, pos, sure, best, sum, cut, floor, left, flags =
  0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, @fresh@
local packed = call('GET', M)
if packed then
  n, bytes, c, due, taken, acked, delivered, pos, sure, best, sum, cut, floor, left, flags =
    struct.unpack(FORM, packed)
end
