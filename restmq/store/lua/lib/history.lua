-- The history of broadcasts: P-N -> v value, t ms of delivery, s bytes of all values up to it, e end of its ttl.
local History = {}
-- An entry of Redis as a record: position, number, value, at, sum, ends (nil when it has no ttl).
function History.entry(raw)
  local position, number = string.match(raw[1], '^(%d+)%-(%d+)$')
  local fields = raw[2]
  return {position = tonumber(position), number = number, value = fields[2], at = tonumber(fields[4]),
    sum = tonumber(fields[6]), ends = fields[8]}
end
function History.at_or_after(position)   -- the first entry there, or nil
  local raw = call('XRANGE', K.history, digits(position), '+', 'COUNT', 1)[1]
  return raw and History.entry(raw)
end
function History.last()
  local raw = call('XREVRANGE', K.history, '+', '-', 'COUNT', 1)[1]
  return raw and History.entry(raw)
end
function History.add(element)   -- it is broadcast now, as the next
  Q.position, Q.sum = Q.position + 1, Q.sum + element.length
  local words = {'v', element.value, 't', digits(now()), 's', digits(Q.sum)}
  if element.ends then words[7], words[8] = 'e', element.ends end
  call('XADD', K.history, digits(Q.position)..'-'..element.number, unpack(words))
end
local function forget_up_to(position, sum) Q.floor, Q.cut = position, sum end
function History.trim()   -- keeps within the bounds, and never cuts a broadcast that is not confirmed
  local most, size = settings.history, settings.history_bytes
  local none = most == 0 or size == 0
  if not none and Q.position - Q.floor <= most * 1.125 + 8 and Q.sum - Q.cut <= size * 1.125 then return end
  local to = none and Q.settled or math.min(math.max(Q.floor, Q.position - most), Q.settled)
  call('XTRIM', K.history, 'MINID', digits(to + 1))
  for _ = 1, 100 do
    local first = History.at_or_after(0)
    if not first then
      forget_up_to(Q.position, Q.sum)
      return
    end
    forget_up_to(first.position - 1, first.sum - #first.value)
    if Q.sum - Q.cut <= size or first.position > Q.settled then return end
    call('XDEL', K.history, digits(first.position)..'-'..first.number)
    forget_up_to(first.position, first.sum)
  end
end
function History.take_back(from, to)   -- positions that nobody has confirmed leave history
  while true do
    local entry = History.at_or_after(from)
    if not entry or entry.position > to then break end
    call('XDEL', K.history, digits(entry.position)..'-'..entry.number)
  end
  local last = History.last()
  Q.sum = last and last.sum or Q.cut
  local before = call('LINDEX', K.taken_back, -1) or ''
  if string.match(before, '%d+$') == digits(from - 1) then
    call('LSET', K.taken_back, -1, string.match(before, '^%d+ ')..digits(to))
  else
    call('RPUSH', K.taken_back, digits(from)..' '..digits(to))
  end
  call('LTRIM', K.taken_back, -20, -1)
end
