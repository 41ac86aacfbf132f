-- Takes the oldest waiting elements out of the queue.
-- KEYS m · ARGV db, how many, options as JSON or ''
--   options: limit: bytes of values; inst: a GET of that instance waits if there is nothing; first: it
--   was woken in vain and keeps its place; full: with what untake.lua needs
-- Returns N, count, value, N, count, value… and, last and alone, 1 when it looked at 1,000, or without
-- options came to a MiB, and there may be more: call again. With `full` the epoch comes first and a fourth word with each element.
--@include keys
--@include state
local LIMIT = 1048576   -- bytes of values in one answer; the last may pass it
local most = tonumber(ARGV[2])
if not packed and ARGV[3] == '' then return {} end
if flags % 4 < 2 and flags < 64 and ARGV[3] == '' then
  local ids, out, from, size, some = {}, {}, string.format('%.0f', c + 1), 0
  repeat   -- a few at a time: values may be large
    some = call('XRANGE', P..'q', from, '+', 'COUNT', math.min(16, most - #ids))
    for _, e in ipairs(some) do
      local i, value = #ids + 1, e[2][2]
      ids[i] = e[1]
      out[3 * i - 2], out[3 * i - 1], out[3 * i] = string.match(e[1], '^%d+'), '0', value
      size = size + #value
      if size >= LIMIT then break end
    end
    from = '('..(ids[#ids] or '')
  until #some < 16 or #ids >= most or size >= LIMIT
  if #ids == 0 then return {} end
  if size >= LIMIT and #ids < most then out[#out + 1] = 1 end
  bytes = bytes - size
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
local seen, full, limit = 0, stop, o.limit or LIMIT
while got < most and not full do   -- a run of elements whose ttl is over must not read as "nothing waits"
  local list
  list, seen = heads(most - got, limit - size)
  looked = looked + seen
  for _, e in ipairs(list) do
    local D, C, F, _, errors = tries(e[1])
    if size + #e[3] > limit and got > 0 then full = true break end
    local ends = o.full and slow and call('ZSCORE', P..'t', e[1]) or '0'
    drop(e[1], e[2], #e[3])
    out[#out + 1], out[#out + 2], out[#out + 3] = e[1], tostring(C), e[3]
    if o.full then out[#out + 1] = e[2]..' '..ends..' '..D..' '..C..' '..F..errors end
    got, size, taken = got + 1, size + #e[3], taken + 1
  end
  if seen == 0 or looked >= 1000 or size >= limit then break end
end
local cut = ARGV[3] == '' and (full or size >= limit)   -- by bytes, which one with options expects
if got < most and (cut or not full and looked >= 1000) then out[#out + 1] = 1
elseif o.inst and got == 0 then enlist(o.inst, o.first) end
if o.inst then wake(0) end
save()
return out
