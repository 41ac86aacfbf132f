-- Elements that wait: those in the stream beyond the cursor, and those that wait again. GETs that wait are in
-- waiters.lua.
local Waiting = {}
function Waiting.add_again(number)   -- it waits, at the place of its key
  call('ZADD', K.again, number, number)
  Q.special = true
  Queue.offer(1)
end
-- Counted from what is stored, so that a wrong counter shows: waiting, leased or in flight, delayed, dead.
function Waiting.count()
  local there = call('XLEN', K.stream)
  if not Q.special then return there, 0, 0, 0 end
  local leased = call('HLEN', K.sent) + call('ZCARD', K.leased)
  local delayed, dead = call('ZCARD', K.delayed), call('ZCARD', K.dead)
  return there + call('HLEN', K.apart) - leased - delayed - dead, leased, delayed, dead
end

function Waiting.offer_all() offered = Waiting.count() end   -- everything that waits is to be handed out

-- The stream beyond the cursor, read page by page. With a limit of bytes pages are small, because COUNT reads whole
-- values.
local function fresh_page(fresh, asked)   -- appends up to `asked` entries; answers whether there may be more
  local page = call('XRANGE', K.stream, fresh.from, '+', 'COUNT', asked)
  local numbers = {}
  for at, entry in ipairs(page) do
    local number, added_at = string.match(entry[1], '^(%d+)%-(%d+)$')
    fresh[#fresh + 1] = {number = number, added_at = added_at, value = entry[2][2], length = #entry[2][2]}
    numbers[at] = number
  end
  if #page > 0 then fresh.from = '('..page[#page][1] end
  for number, ends in pairs(ends_of(numbers)) do fresh.ends[number] = ends end
  return #page == asked
end

-- Up to `most` that wait, oldest first. Each has number, added_at, value, length, again: whether it waits again, apart:
-- whether it lies apart, ends: ms at which its ttl ends. `limit`: bytes of values, which the first may exceed. Also how
-- many were looked at: when that is `most`, there may be more.
function Waiting.oldest(most, limit)
  local back = Q.special and call('ZRANGE', K.again, 0, most - 1) or {}   -- beyond the cursor only those that were delayed
  local ends = #back > 0 and ends_of(back) or {}
  local fresh, size, step, unread = {from = digits(Q.cursor + 1), ends = {}}, 0, limit and 4 or most, 0
  if #back < most or tonumber(back[most]) > Q.cursor then unread = most end
  local found, i, j, back_cut = {}, 1, 1, #back == most
  while #found < most do
    if not fresh[i] and unread > 0 then
      local asked = math.min(step, unread)
      unread, step = fresh_page(fresh, asked) and unread - asked or 0, 4 * step
    end
    -- Some had ended, so this stops where a list was cut: its rest may be older than the rest of the other list.
    if not (fresh[i] or back[j]) or (#fresh == most and not fresh[i]) or (back_cut and not back[j]) then break end
    local one = fresh[i]
    if one and (not back[j] or tonumber(one.number) < tonumber(back[j])) then
      one.ends, i = fresh.ends[one.number], i + 1
    else
      one, j = {number = back[j], again = true, ends = ends[back[j]]}, j + 1
    end
    if not Element.expire(one.number, one.ends) then
      if one.again then
        one.value, one.added_at, one.apart = Element.find(one.number)
        one.length = #one.value
      end
      size = size + one.length
      if limit and size > limit and #found > 0 then break end
      found[#found + 1] = one
    end
  end
  return found, i + j - 2
end
-- They wait no more: they are handed out now, or in the next step.
function Waiting.remove(elements)
  local back = {}
  for _, one in ipairs(elements) do
    if one.again then back[#back + 1] = one.number else Q.cursor = math.max(Q.cursor, tonumber(one.number)) end
  end
  in_thousands(back, function(from, to) call('ZREM', K.again, unpack(back, from, to)) end)
end
