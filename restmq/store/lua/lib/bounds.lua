-- A queue's bounds, max_length and max_bytes. Waiting, delayed and leased elements count, dead ones do not.
-- An add drops at most 1,000 of the oldest, or as many as are added. That may be too few after max_length was lowered.
-- Then the queue shrinks by that much at each add. Plain adds that come together share these thousand steps. When
-- max_bytes needs more than that, the rest of them is refused.
local Bounds = {}
local steps
function Bounds.begin() steps = 1000 end
local function surplus(many, size)   -- elements and bytes over the bounds, and how many wait
  local there, leased, delayed = Waiting.count()
  local most, heaviest = settings.max_length, settings.max_bytes
  return most > 0 and there + leased + delayed + many - most or 0,
    heaviest > 0 and Q.bytes - Queue.counted('gb') + size - heaviest or 0, there
end
local function drop_oldest(much, heavy, most)   -- of at most `most` elements; whether that was enough
  local asked = math.min(most, math.max(much, 1))
  local oldest, going, lighter
  while true do
    oldest, going, lighter = Waiting.oldest(asked), 0, 0
    while oldest[going + 1] and (going < much or lighter < heavy) do
      going = going + 1
      lighter = lighter + oldest[going].length
    end
    if lighter >= heavy or asked == most or #oldest < asked then break end
    asked = math.min(most, 8 * asked)
  end
  if lighter < heavy or (going < much and going < most) then return false end
  steps = steps - going
  for at = 1, going do Element.drop_waiting(oldest[at], Element.tries(oldest[at].number)) end
  Queue.count('dropped', going)
  return true
end
-- Makes room for `many` elements of `size` bytes in all. Answers nil when there is room now, else the error's word.
function Bounds.make_room(many, size)
  local most, heaviest = settings.max_length, settings.max_bytes
  if most == 0 and heaviest == 0 then return end
  if (most > 0 and many > most) or (heaviest > 0 and size > heaviest) then return 'OVERSIZE' end
  local much, heavy, there = surplus(many, size)
  if (much > 0 or heavy > 0) and steps > 0 then
    local gone = Element.expire_some()
    if gone > 0 then
      steps = steps - gone
      much, heavy, there = surplus(many, size)
    end
  end
  if much <= 0 and heavy <= 0 then return end
  if settings.overflow ~= 'drop_oldest' or much > there then return 'OVERFULL' end
  local droppable = many > 1 and math.max(1000, many) or steps
  if droppable <= 0 then return heavy > 0 and 'OVERFULL' or nil end
  if not drop_oldest(much, heavy, droppable) then return 'OVERFULL' end
end
