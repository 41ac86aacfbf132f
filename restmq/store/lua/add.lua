-- Adds values in order, and offers them to consumers that listen or wait.
-- Arguments: added_at in ms, options as JSON or '', an epoch for a queue that begins with this, then the values.
--   options:
--     ttl, delay: ms; at: a Unix time in ms, in place of delay
--     key, digest, window: a second add with the same key gets the same answer (answers.lua)
--     all: add all values or none
-- Returns {first number, 1 when the queue began with this, 1 when an earlier add is answered again, how many were
-- added, then for each value that was refused: its place from 1, and the error's word}. Numbers follow without a gap.
-- With `at`, the ms until the queue is due come last. Or an error reply: STOPPED ms, CONFLICT, OVERFULL, OVERSIZE, FAR.
local FIRST = 5   -- index of the first value in args
local function add_plain(args)   -- the fast way: nobody listens, and nothing is special
  local added_at = '-'..args[2]
  for at = FIRST, #args do
    Q.last, Q.bytes = Q.last + 1, Q.bytes + #args[at]
    call('XADD', K.stream, digits(Q.last)..added_at, 'v', args[at])
  end
  Queue.store()
  return {Q.last - (#args - FIRST), 0}
end
local function read_add(options)   -- the options, and an error reply when `at` is too far ahead
  local o = options ~= '' and cjson.decode(options) or {}
  if o.at then
    o.delay = ms_until(o.at)
    if o.delay > MOST_AHEAD then return o, redis.error_reply('FAR') end
    if o.delay == 0 then o.delay = nil end
  end
  return o
end
local function store(value, added_at, o)   -- answers its number
  Q.last, Q.bytes = Q.last + 1, Q.bytes + #value
  local number = digits(Q.last)
  if o.delay then
    call('HSET', K.apart, number, added_at..' '..value)
    call('ZADD', K.delayed, digits(now() + o.delay), number)
    Queue.due_at(now() + o.delay)
  else
    call('XADD', K.stream, number..'-'..added_at, 'v', value)
    Queue.offer(1)
  end
  if o.ttl then
    call('ZADD', K.expiring, digits(now() + o.ttl), number)
    Queue.due_at(now() + o.ttl)
  end
  return number
end
local function send_to_taps(elements)
  if Q.governed and call('EXISTS', K.taps) == 1 and publish(Keys.adds(), Delivery.message('T', 0, elements)) == 0 then
    call('DEL', K.taps)
    Settings.govern_no_more()
  end
end
local function refusal_of_all(o, args)   -- the error's word when not all fit, else nil
  local size = 0
  for at = FIRST, #args do size = size + #args[at] end
  return o.all and Bounds.make_room(#args - FIRST + 1, size) or nil
end
verb('add', GROWS, function(args)
  local added_at, options, epoch = args[2], args[3], args[4]
  if (Q.flags == 1 or Q.flags == 17) and options == '' then return add_plain(args) end
  Queue.begin()
  Bounds.begin()
  local o, refusal = read_add(options)
  refusal = refusal or o.key and Answers.earlier(o) or Stops.refusal('add')
  if refusal then return refusal end
  local elements, answer = {}, {Q.last + 1, Q.created and 0 or 1, 0, 0}
  local why = refusal_of_all(o, args)
  if why then
    Queue.save()
    return redis.error_reply(why)
  end
  for at = FIRST, #args do
    local value = args[at]
    why = not o.all and Bounds.make_room(1, #value)
    if why then
      answer[#answer + 1], answer[#answer + 2] = at - FIRST + 1, why
    else
      if not Q.created then
        Queue.begin_epoch(epoch)
        Queue.create()
      end
      elements[#elements + 1] = {number = store(value, added_at, o), value = value, length = #value, handed = 0}
    end
  end
  answer[4] = #elements
  if #elements > 0 then
    if o.key then Answers.keep(o, answer[1], #elements) end
    send_to_taps(elements)
  end
  Delivery.go_on()
  Queue.save()
  if o.at then answer[#answer + 1] = Queue.due_in() end
  return answer
end)
