-- Handing out the oldest waiting elements, page by page: the part that take and lease share.
-- o: the options of both.
--   limit: bytes of values, which the first value may exceed
--   instance: when there is nothing, a GET of that instance waits
--   first: that GET was woken in vain, and keeps its place
local Taking = {}
-- Calls hand_out(elements, tries) with each page. Answers how many were handed out, and whether the limit was reached.
-- Also answers whether a thousand were looked at, of which most had ended: then there may be more.
function Taking.each_page(most, limit, hand_out)
  local got, size, looked = 0, 0, 0
  while got < most do   -- many elements whose ttl is over must not read as "nothing waits"
    local page, seen = Waiting.oldest(most - got, limit and limit - size)
    looked = looked + seen
    local elements, numbers, full = {}, {}, false
    for _, one in ipairs(page) do
      if limit and got > 0 and size + one.length > limit then full = true break end
      elements[#elements + 1], numbers[#numbers + 1] = one, one.number
      got, size = got + 1, size + one.length
    end
    hand_out(elements, Element.tries_of(numbers))
    if full or (limit and size >= limit) then return got, true, false end
    if seen == 0 then break end
    if looked >= 1000 then return got, false, got < most end
  end
  return got, false, false
end
function Taking.finish(o, got)   -- when nothing was there, its GET waits; elements that are left wake the GETs behind it
  if not o.instance then return end
  if got == 0 then Waiters.add(o.instance, o.first) end
  Waiters.wake(0)
end
