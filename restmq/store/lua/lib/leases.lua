-- A lease gives an element to one client for a time.
local Leases = {}
-- Grants leases for so many ms. all_tries: number -> tries, with this hand-out counted and the owner named.
function Leases.grant(elements, all_tries, ms)
  if #elements == 0 then return end
  local tries, ends, at = {}, {}, digits(now() + ms)
  for i, one in ipairs(elements) do
    tries[2 * i - 1], tries[2 * i] = one.number, tries_text(all_tries[one.number])
    ends[2 * i - 1], ends[2 * i] = at, one.number
  end
  in_thousands(tries, function(from, to)
    call('HSET', K.tries, unpack(tries, from, to))
    call('ZADD', K.leased, unpack(ends, from, to))
  end)
  Queue.due_at(now() + ms)
end
-- Answers the hand-out count of an element that is leased or in flight; nil for another one. For an element in flight,
-- also answers the instance of its consumer. `leased`: the end of its lease, when that is known.
local function holder(number, leased)
  if leased or call('ZSCORE', K.leased, number) then return Element.tries(number).handed end
  local owner, handed = string.match(Q.special and call('HGET', K.sent, number) or '', '^(%S+) (%d+)')
  if owner and owner ~= '*' then return tonumber(handed), owner end
end
Leases.holder = holder
-- Whether that lease holds. handed '': any lease counts.
function Leases.holds(number, handed, epoch)
  if Element.has_expired(number) then return false end
  local held_as = holder(number)
  return held_as and (handed == '' or epoch == Queue.epoch() and held_as == tonumber(handed))
end
-- A client acknowledged or gave back before the confirmation came. The element now counts as delivered.
function Leases.mark_arrived(number)
  local handed, owner = holder(number)
  if not owner then return end
  call('HDEL', K.sent, number)
  Element.forget_sent(number, owner)
  local tries = Element.tries(number)
  tries.handed, tries.owner = handed, owner
  Element.set_tries(number, tries)
end

local function pause_after(failed)   -- ms before the next try
  local kind, first, most = string.match(settings.backoff, '^(%a+):(%d+):?(%d*)$')
  if kind == 'fixed' then return tonumber(first) end
  if kind == 'exp' then return math.min(tonumber(first) * 2 ^ math.min(failed - 1, 40), tonumber(most)) end
  return 0
end
local function bury(number)   -- it is dead: kept with its key, its errors and its count of hand-outs
  local value = Element.find(number)
  Element.set_apart(number)
  call('ZADD', K.dead, number, number)
  Queue.count('gb', #value)
  if settings.dead_ttl > 0 then
    local at, ends = now() + settings.dead_ttl, call('ZSCORE', K.expiring, number)
    if not ends or at < tonumber(ends) then
      call('HSET', K.own_ttl, number, ends or 0)
      call('ZADD', K.expiring, digits(at), number)
      Queue.due_at(at)
    end
  end
end
function Leases.delay(number, at)   -- at: ms at which it will wait again
  Element.set_apart(number)
  call('ZADD', K.delayed, digits(at), number)
  Queue.due_at(at)
end
local function add_error(tries, reason)   -- the last 2,000 bytes are kept, 200 of each
  if reason == '' then return end
  local errors = tries.errors..'\n'..clip(string.gsub(reason, '%c', ' '), 200)
  if #errors > 2000 then errors = string.match(string.sub(errors, -2000), '\n.*$') end
  tries.errors = errors
end
-- A lease is over without an acknowledgement. delay: ms, or nil for what the settings say; dead_at_once: put it aside.
function Leases.release(number, failed, delay, reason, dead_at_once)
  Leases.mark_arrived(number)
  local tries = Element.tries(number)
  call('ZREM', K.leased, number)
  Queue.free(tries.owner, number)
  tries.owner = '-'
  if failed then tries.failed = tries.failed + 1 end
  add_error(tries, reason)
  Element.set_tries(number, tries)
  local most = settings.max_deliveries
  if dead_at_once or (failed and most > 0 and tries.failed >= most) then
    bury(number)
    return
  end
  delay = delay or (failed and pause_after(tries.failed) or 0)
  if delay > 0 then Leases.delay(number, now() + delay) else Waiting.add_again(number) end
end

-- Acknowledges leases. words: number, handed and epoch of each, from words[first] on. Answers 1 for each, or 0 when it
-- is lost. The elements are looked up together, and leave the queue together.
function Leases.acknowledge(words, first)
  local numbers, answers, dropped, seen, epoch = {}, {}, {}, {}, Queue.epoch()
  for at = first, #words, 3 do numbers[#numbers + 1] = words[at] end
  local ends, leased, tries = ends_of(numbers), look_up('ZMSCORE', K.leased, numbers), Element.tries_of(numbers)
  for at, number in ipairs(numbers) do
    local handed, its_epoch = words[first + 3 * at - 2], words[first + 3 * at - 1]
    local done = 0
    if not seen[number] and not Element.expire(number, ends[number]) then
      local held_as = leased[number] and tries[number].handed or holder(number)
      if held_as and held_as == tonumber(handed) and its_epoch == epoch then
        done, seen[number] = 1, true
        if leased[number] then
          local value, added_at, apart = Element.find(number)
          Queue.free(tries[number].owner, number)
          dropped[#dropped + 1] = {number = number, added_at = added_at, length = #value, apart = apart}
        else
          Element.delete(number)
        end
      end
    end
    answers[at] = done
    Q.acked = Q.acked + done
  end
  Element.drop_leased(dropped, ends)
  return answers
end
