-- A queue's bounds, max_length and max_bytes: waiting, delayed and leased count, dead do not.
local function overfull(many, size)   -- nil when there is room, or room was made; else the word why not
  local most, heaviest = rule.max_length, rule.max_bytes
  if most == 0 and heaviest == 0 then return end
  if (most > 0 and many > most) or (heaviest > 0 and size > heaviest) then return 'OVERSIZE' end
  local there, away, delayed = waiting()
  local over = most > 0 and there + away + delayed + many - most or 0
  local heavy = heaviest > 0 and bytes - tonumber(call('HGET', P..'a', 'gb') or 0) + size - heaviest or 0
  if over <= 0 and heavy <= 0 then return end
  if rule.overflow ~= 'drop_oldest' or over > there then return 'OVERFULL' end
  local list, going = heads(heavy > 0 and math.max(1000, over) or over), 0
  while (over > 0 or heavy > 0) and list[going + 1] do
    going = going + 1
    over, heavy = over - 1, heavy - #list[going][3]
  end
  if over > 0 or heavy > 0 then return 'OVERFULL' end
  for i = 1, going do drop(list[i][1], list[i][2], #list[i][3]) end
  count('dropped', going)
end
