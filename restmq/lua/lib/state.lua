-- The queue's hot state: one GET, one SET. Numbers are doubles, exact to 2^53.
--   n last number, bytes stored, c cursor (all of q up to c is handed out or in r), due next end of a
--   ttl (0 none), taken acked delivered, pos last P, sure P up to which broadcasts are confirmed,
--   best highest P confirmed by anyone, sum bytes of history ever, cut the same before the first kept,
--   floor P before the first kept, left elements of this turn still owed to the ring's head
--   flags: 1 born, 2 uses r x t y (something beyond plain waiting), 4 somebody waits, 8 somebody
--   listens, 16 round-robin, 32 stopped
local FORM = '>ddddddddddddddB'
local n, bytes, c, due, taken, acked, delivered, pos, sure, best, sum, cut, floor, left, flags =
  0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0
local packed = call('GET', M)
if packed then
  n, bytes, c, due, taken, acked, delivered, pos, sure, best, sum, cut, floor, left, flags =
    struct.unpack(FORM, packed)
end
