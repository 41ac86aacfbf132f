-- Variables of a call, and helpers for text, time and messages. Redis keeps the variables of a library from one call to
-- the next, so Queue.open() sets each of them anew.
local call   -- redis.call, which does not exist while a library is loaded
local clock   -- ms by Redis' clock, once it was asked for in this call
local db   -- the number of the instance's database, as text: a part of the names of channels

local MOST_AHEAD = 31622400000   -- ms: 366 days, the longest that anything is put off

local function digits(number) return string.format('%.0f', number) end

local function now()   -- ms by Redis' clock. The end of a time must not depend on the instance that asks
  if not clock then
    local time = @time@
    clock = time[1] * 1000 + math.floor(time[2] / 1000)
  end
  return clock
end

local function ms_until(at) return math.max(0, tonumber(at) - now()) end   -- at: a Unix time in ms

local function publish(channel, text) return call('PUBLISH', channel, text) end   -- answers how many hear it

local function in_thousands(list, use)   -- calls use(from, to) for each thousand of a list: unpack() ends at 8,000
  for from = 1, #list, 1000 do use(from, math.min(#list, from + 999)) end
end

-- The first bytes of a text, without a part of a character: bytes 128 to 191 continue one (RFC 3629, section 3).
local function clip(text, most)
  if #text <= most then return text end
  while most > 0 and string.find(text, '^[\128-\191]', most + 1) do most = most - 1 end
  return string.sub(text, 1, most)
end
