-- Leases the oldest waiting elements: hidden until acknowledged, given back, or the lease ends.
-- KEYS m · ARGV db, how many, ms, options as JSON or '' (limit, inst, first: as take.lua)
-- Returns {epoch, N, count, value, D, … and, last and alone, 1: as take.lua}.
--@include keys
--@include state
if not packed and ARGV[4] == '' then return {''} end
--@include save
--@include rules
--@include element
--@include lease
--@include wait
local most, ms = tonumber(ARGV[2]), tonumber(ARGV[3])
local o = ARGV[4] ~= '' and cjson.decode(ARGV[4]) or {}
local stop = refuse('pull')
if stop and not o.inst then return stop end
local out, looked, got, size, full = {call('HGET', P..'a', 'ep') or ''}, 0, 0, 0, stop
while got < most and not full do
  local list, seen = heads(most - got, o.limit and o.limit - size)
  looked = looked + seen
  for _, e in ipairs(list) do
    if o.limit and size + #e[3] > o.limit and got > 0 then full = true break end
    local D, C = tries(e[1])
    if e[4] then call('ZREM', P..'r', e[1]) else c = math.max(c, tonumber(e[1])) end
    lease(e[1], D + 1, ms, '-')
    out[#out + 1], out[#out + 2], out[#out + 3], out[#out + 4] = e[1], tostring(C), e[3], D + 1
    got, size = got + 1, size + #e[3]
  end
  if seen == 0 or looked >= 1000 or (o.limit and size >= o.limit) then break end
end
if not full and got < most and looked >= 1000 then out[#out + 1] = 1
elseif o.inst and got == 0 then enlist(o.inst, o.first) end
if o.inst then wake(0) end
save()
return out
