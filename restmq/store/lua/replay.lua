-- A page of history, for a consumer that comes back or asks for some of the past.
-- Arguments: where to begin ('after', 'key', 'last', 'ago', 'all', 'now'); a position, number, how many or ms; how many
-- elements at the most; a new epoch; how many bytes of values at the most (the last value may exceed that).
-- Returns {epoch, the queue's position, position before the first that is kept, position after which the page starts,
-- position up to which the page goes, then position, number, value…}. Elements that have ended are left out.
local starts = {}   -- the position after which the page starts
function starts.now() return Q.position end
function starts.after(which) return tonumber(which) end
function starts.last(which) return math.max(0, Q.position - tonumber(which)) end
function starts.all() return Q.floor end
function starts.key(number)   -- behind its place among the newest thousand; 0 when it is not known how much is missing
  local to = '+'
  for _ = 1, 20 do
    local page = call('XREVRANGE', K.history, to, '-', 'COUNT', 50)
    for _, raw in ipairs(page) do
      local entry = History.entry(raw)
      if entry.number == number then return entry.position end
      to = '('..raw[1]
    end
    if #page < 50 then break end
  end
  return 0
end
function starts.ago(ms)   -- before the first that is not older, found by bisection
  local low, high, since = Q.floor, Q.position, now() - tonumber(ms)
  while low < high do
    local middle = math.floor((low + high) / 2)
    local entry = History.at_or_after(middle + 1)
    if entry and entry.at < since then low = middle + 1 else high = middle end
  end
  if low > Q.floor then return low end
  local first = History.at_or_after(0)   -- broadcasts that are not kept may have been of that time
  return first and first.at < since and low or 0
end
local function read(answer, start, most, limit)   -- answers the position up to which it went
  local to, size, from, step = start, 0, digits(start + 1), 4
  while start < Q.position and most > 0 and size <= limit do   -- a few at a time, because COUNT reads whole values
    local asked = math.min(step, most)
    local page = call('XRANGE', K.history, from, '+', 'COUNT', asked)
    for _, raw in ipairs(page) do
      if size > limit then break end
      local entry = History.entry(raw)
      to, size, from = entry.position, size + #entry.value, '('..raw[1]
      if not entry.ends or tonumber(entry.ends) > now() then
        local at = #answer
        answer[at + 1], answer[at + 2], answer[at + 3] = digits(entry.position), entry.number, entry.value
      end
    end
    most, step = #page == asked and most - asked or 0, 4 * step
  end
  return to
end
verb('replay', FREES, function(args)
  local what, which, most, epoch, limit = unpack(args, 2, 6)
  Queue.look()
  Queue.begin_epoch(epoch)
  local start = starts[what](which)
  local answer = {Queue.epoch(), Q.position, Q.floor, start}
  answer[5] = start
  local to = read(answer, start, tonumber(most), tonumber(limit) or 1048576)
  if #answer == 5 and to == start then to = math.max(start, Q.position) end
  answer[5] = to
  Queue.save()
  return answer
end)
