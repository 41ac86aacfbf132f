-- Takes the oldest waiting elements out of the queue.
-- KEYS m · ARGV db, how many, options as JSON or ''
--   options: limit: bytes of values; inst: a GET of that instance waits if there is nothing; first: it
--   was woken in vain and keeps its place; full: with what untake.lua needs
-- Returns N, count, value, N, count, value… and, last and alone, 1 when it looked at 1,000 and there
-- may be more: call again. With `full` the epoch comes first and a fourth word with each element.
--@include keys
--@include state
local most = tonumber(ARGV[2])
if not packed and ARGV[3] == '' then return {} end
if flags % 4 < 2 and flags < 64 and ARGV[3] == '' then
  local found = call('XRANGE', P..'q', string.format('%.0f', c + 1), '+', 'COUNT', most)
  if #found == 0 then return {} end
  local ids, out = {}, {}
  for i, e in ipairs(found) do
    local value = e[2][2]
    ids[i] = e[1]
    out[3 * i - 2], out[3 * i - 1], out[3 * i] = string.match(e[1], '^%d+'), '0', value
    bytes = bytes - #value
  end
  call('XDEL', P..'q', unpack(ids))
  taken = taken + #ids
  call('SET', M, struct.pack(FORM, n, bytes, c, due, taken, acked, delivered, pos, sure, best, sum, cut,
    floor, left, flags))
  return out
end
--@include save
--@include rules
--@include element
--@include wait
local o = ARGV[3] ~= '' and cjson.decode(ARGV[3]) or {}
local stop = refuse('pull')
if stop and not o.inst then return stop end
local out, looked, got, size = o.full and {call('HGET', P..'a', 'ep') or ''} or {}, 0, 0, 0
local seen, full = 0, stop
while got < most and not full do   -- a run of elements whose ttl is over must not read as "nothing waits"
  local list
  list, seen = heads(most - got, o.limit and o.limit - size)
  looked = looked + seen
  for _, e in ipairs(list) do
    local D, C, F, _, errors = tries(e[1])
    if o.limit and size + #e[3] > o.limit and got > 0 then full = true break end
    local ends = o.full and slow and call('ZSCORE', P..'t', e[1]) or '0'
    drop(e[1], e[2], #e[3])
    out[#out + 1], out[#out + 2], out[#out + 3] = e[1], tostring(C), e[3]
    if o.full then out[#out + 1] = e[2]..' '..ends..' '..D..' '..C..' '..F..errors end
    got, size, taken = got + 1, size + #e[3], taken + 1
  end
  if seen == 0 or looked >= 1000 or (o.limit and size >= o.limit) then break end
end
if not full and got < most and looked >= 1000 then out[#out + 1] = 1
elseif o.inst and got == 0 then enlist(o.inst, o.first) end
if o.inst then wake(0) end
save()
return out
