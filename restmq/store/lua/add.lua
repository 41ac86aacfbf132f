-- Adds values in order; offers them to whoever listens or waits.
-- KEYS m · ARGV db, ms of adding, options as JSON or '', an epoch for a newborn queue, values…
--   options: ttl, delay: ms; at: a Unix time in ms, in place of delay; key, digest, window: the same key answers the same; all: all values or none
-- Returns {first number, 1 when the queue was born by this, 1 when an earlier add is answered again, how
-- many were added, then for each value that was not: its place from 1, and the word why}; numbers follow
-- without a gap. With `at` the ms until the queue is due come last. Or an error reply: STOPPED ms, CONFLICT,
-- OVERFULL, OVERSIZE, FAR.
--@include keys
--@include state
local adding = #ARGV - 4
if (flags == 1 or flags == 17) and ARGV[3] == '' then   -- nobody listens, nothing special: this is the hot path
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
--@include rules
--@include element
--@include wait
--@include hand
--@include bound
--@include remember
local o = ARGV[3] ~= '' and cjson.decode(ARGV[3]) or {}
if o.at then
  o.delay = until_(o.at)
  if o.delay > MOST then return redis.error_reply('FAR') end
  if o.delay == 0 then o.delay = nil end
end
local before = o.key and remembered(o) or refuse('add')
if before then return before end
local newborn, first, list = born and 0 or 1, n + 1, {}
local answer = {first, newborn, 0, 0}
if o.all then
  local size = 0
  for i = 5, #ARGV do size = size + #ARGV[i] end
  local why = overfull(adding, size)
  if why then save() return redis.error_reply(why) end
end
for i = 5, #ARGV do
  local value = ARGV[i]
  local why = not o.all and overfull(1, #value)
  if why then
    answer[#answer + 1], answer[#answer + 2] = i - 4, why
  else
    if not born then
      call('HSETNX', P..'a', 'ep', ARGV[4])
      birth()
    end
    n, bytes = n + 1, bytes + #value
    local N = digits(n)
    if o.delay then
      call('HSET', P..'e', N, ARGV[2]..' '..value)
      call('ZADD', P..'d', digits(time() + o.delay), N)
      late(time() + o.delay)
    else
      call('XADD', P..'q', N..'-'..ARGV[2], 'v', value)
      offered = offered + 1
    end
    if o.ttl then
      call('ZADD', P..'t', digits(time() + o.ttl), N)
      late(time() + o.ttl)
    end
    list[#list + 1] = {N, ARGV[2], value, false, 0}
  end
end
answer[4] = #list
if #list > 0 then
  if o.key then remember(o, first, #list) end
  if ruled and call('EXISTS', P..'taps') == 1 and publish('t'..db, message('T', 0, list)) == 0 then
    call('DEL', P..'taps')
    unrule()
  end
end
pump()
save()
if o.at then answer[#answer + 1] = soon() end
return answer
