-- Dead elements get another chance: their tries start anew, D goes on.
-- KEYS m · ARGV db, how many of the oldest, or 0 and N's
-- Returns the N's that wait again.
--@include keys
--@include state
if not packed then return {} end
--@include save
--@include rules
--@include element
--@include wait
--@include hand
local list = {unpack(ARGV, 3)}
if ARGV[2] ~= '0' then list = call('ZRANGE', P..'g', 0, tonumber(ARGV[2]) - 1) end
local out = {}
for _, N in ipairs(list) do
  if not ended(N) and call('ZREM', P..'g', N) == 1 then
    local D, C, _, _, errors = tries(N)
    count('gb', -#find(N))
    local own = call('HGET', P..'u', N)   -- what dead_ttl put in its place is over
    if own then
      call('HDEL', P..'u', N)
      if own == '0' then call('ZREM', P..'t', N) else call('ZADD', P..'t', own, N) end
    end
    settries(N, D, C, 0, '-', errors)
    again(N)
    out[#out + 1] = N
  end
end
pump()
save()
return out
