-- Looks at elements without changing them.
-- Arguments: what to look at: a state (waiting, leased, delayed, dead, history), 'one' or 'way'; the number after which
-- the page begins, 0 for the first page, or the number of the one; how many; then the position from which to search the
-- history, or, for 'way', numbers of elements that may be in flight.
-- Returns of each: number, state, value, how often it was handed out and shown, ms since it was added, ms until it is
-- due or its lease or ttl ends ('' for never), its errors, a line each. Leased and delayed come in the order of their
-- time, history in the order of delivery. Or {'?'} when the number after which the page begins is not in that state any
-- more. Or {'+', position} when that number is not among the 1,000 entries of history that were searched: call again
-- with that position.
local function show(answer, number, state, value, added_at, ends)
  local tries = Element.tries(number)
  local sent = string.match(Q.special and call('HGET', K.sent, number) or '', '^%S+ (%d+)')
  local left = ends and tonumber(ends) > 0 and digits(math.max(0, ends - now())) or ''
  local age = digits(math.max(0, now() - added_at))
  for _, word in ipairs({number, state, value, sent or tries.handed, tries.shown, age, left, tries.errors}) do
    answer[#answer + 1] = tostring(word)
  end
end
local function show_stored(answer, number, state, at)   -- at: when its lease ends or it is due
  local value, added_at = Element.find(number)
  local ends = Q.special and call('ZSCORE', K.expiring, number)
  if not value or (ends and tonumber(ends) <= now()) then return end
  show(answer, number, state, value, added_at, at or ends)
end
local function by_time(key, state) return function(answer, after, most)
  local from = 0
  if after ~= '0' then
    from = call('ZRANK', key(), after)
    if not from then return {'?'} end
    from = from + 1
  end
  local page = call('ZRANGE', key(), from, from + most - 1, 'WITHSCORES')
  for at = 1, #page, 2 do show_stored(answer, page[at], state, page[at + 1]) end
end end
local peeks = {}   -- each appends to the answer, or returns another one
peeks.leased = by_time(function() return K.leased end, 'leased')
peeks.delayed = by_time(function() return K.delayed end, 'delayed')
function peeks.way(answer, _, _, args)
  for at = 5, #args do
    if call('HEXISTS', K.sent, args[at]) == 1 then show_stored(answer, args[at], 'leased') end
  end
end
function peeks.dead(answer, after, most)
  for _, number in ipairs(call('ZRANGEBYSCORE', K.dead, '('..after, '+inf', 'LIMIT', 0, most)) do
    show_stored(answer, number, 'dead')
  end
end
local function history_after(number, from)   -- the first entry after that number; or an answer that says why not
  local page = call('XRANGE', K.history, from, '+', 'COUNT', 1000)
  for _, entry in ipairs(page) do
    if string.match(entry[1], '%-(%d+)$') == number then return '('..entry[1] end
  end
  if #page < 1000 then return nil, {'?'} end
  return nil, {'+', digits(History.entry(page[1000]).position + 1)}
end
function peeks.history(answer, after, most, args)
  local from, other = '-'
  if after ~= '0' then
    from, other = history_after(after, args[5] or '-')
    if other then return other end
  end
  for _, raw in ipairs(call('XRANGE', K.history, from, '+', 'COUNT', most)) do
    local entry = History.entry(raw)
    if not entry.ends or tonumber(entry.ends) > now() then
      show(answer, entry.number, 'history', entry.value, entry.at, entry.ends)
    end
  end
end
function peeks.one(answer, number)
  local state, at = 'waiting'
  if Q.special then
    local leased, delayed = call('ZSCORE', K.leased, number), call('ZSCORE', K.delayed, number)
    if leased or call('HEXISTS', K.sent, number) == 1 then
      state, at = 'leased', leased
    elseif delayed then
      state, at = 'delayed', delayed
    elseif call('ZSCORE', K.dead, number) then
      state = 'dead'
    end
  end
  show_stored(answer, number, state, at)
end
function peeks.waiting(answer, after, most)
  local numbers, from = {}, math.max(tonumber(after), Q.cursor)
  for _, number in ipairs(Q.special and call('ZRANGEBYSCORE', K.again, '('..after, '+inf', 'LIMIT', 0, most) or {}) do
    numbers[#numbers + 1] = tonumber(number)
  end
  for _, entry in ipairs(call('XRANGE', K.stream, digits(from + 1), '+', 'COUNT', most)) do
    numbers[#numbers + 1] = tonumber(string.match(entry[1], '^%d+'))
  end
  table.sort(numbers)
  for at = 1, math.min(most, #numbers) do show_stored(answer, digits(numbers[at]), 'waiting') end
end
verb('peek', LOOKS, function(args)
  local state, after, most = args[2], args[3], tonumber(args[4])
  if not Q.packed then return {} end
  Queue.look()
  local answer = {}
  return peeks[state](answer, after, most, args) or answer
end)
