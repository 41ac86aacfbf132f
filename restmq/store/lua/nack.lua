-- Gives leases back. The elements wait again, now or later, or are dead: after too many failed tries, or at once.
-- Arguments, of each lease: number, handed or '' for any lease, epoch, when, 1 when the try failed, the reason or
-- ''.
--   when: ms of delay; @ and a Unix time in ms; dead; or '' for what the settings say
-- Returns 1 for each, 0 when the lease is lost, -1 when there is no such element. Last come the ms until the queue is
-- due, -1 for never. Or the error reply FAR; then nothing was done.
local WORDS = 6   -- arguments of each lease
local function delay_of(when)   -- ms, and whether that is too far ahead; nil for what the settings say
  local at = string.match(when, '^@(%d+)$')
  if not at then return tonumber(when), false end
  local delay = ms_until(at)
  return delay, delay > MOST_AHEAD
end
verb('nack', FREES, function(args)
  Queue.begin()
  local answers, delays = {}, {}
  for at = 2, #args, WORDS do
    local delay, too_far = delay_of(args[at + 3])
    if too_far then return redis.error_reply('FAR') end
    delays[at] = delay
  end
  for at = 2, #args, WORDS do
    local number, handed, epoch, when, failed, reason = unpack(args, at, at + WORDS - 1)
    local held = Leases.holds(number, handed, epoch)
    if held then Leases.release(number, failed == '1', delays[at], reason, when == 'dead') end
    answers[#answers + 1] = held and 1 or (Q.packed and Element.find(number) and 0 or -1)
  end
  if Q.packed then
    Delivery.go_on()
    Queue.save()
  end
  answers[#answers + 1] = Queue.due_in()
  return answers
end)
