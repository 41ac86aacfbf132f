-- A queue's bounds, max_length and max_bytes: waiting, delayed and leased count, dead do not.
-- Of the oldest at most 1,000 are dropped, or as many as are added. When that is too few for max_length (it
-- was lowered), the queue shrinks by it at each add.
-- Plain adds that came together share these thousand steps: what more would have to go for max_bytes is
-- refused until the next add.
local spare = 1000
local function overfull(many, size)   -- nil when there is room, or room was made; else the word why not
  local most, heaviest = rule.max_length, rule.max_bytes
  if most == 0 and heaviest == 0 then return end
  if (most > 0 and many > most) or (heaviest > 0 and size > heaviest) then return 'OVERSIZE' end
  local there, away, delayed = waiting()
  local function over()
    return most > 0 and there + away + delayed + many - most or 0,
      heaviest > 0 and bytes - tonumber(call('HGET', P..'a', 'gb') or 0) + size - heaviest or 0
  end
  local much, heavy = over()
  if (much > 0 or heavy > 0) and spare > 0 then
    local ended = expire()
    if ended > 0 then
      spare, there, away, delayed = spare - ended, waiting()
      much, heavy = over()
    end
  end
  if much <= 0 and heavy <= 0 then return end
  if rule.overflow ~= 'drop_oldest' or much > there then return 'OVERFULL' end
  local cap = many > 1 and math.max(1000, many) or spare
  if cap <= 0 then return heavy > 0 and 'OVERFULL' or nil end
  local ask, list, going, lighter = math.min(cap, math.max(much, 1))
  while true do
    list, going, lighter = heads(ask), 0, 0
    while list[going + 1] and (going < much or lighter < heavy) do
      going = going + 1
      lighter = lighter + #list[going][3]
    end
    if lighter >= heavy or ask == cap or #list < ask then break end
    ask = math.min(cap, 8 * ask)
  end
  if lighter < heavy or (going < much and going < cap) then return 'OVERFULL' end
  spare = spare - going
  for i = 1, going do drop(list[i][1], list[i][2], #list[i][3]) end
  count('dropped', going)
end
