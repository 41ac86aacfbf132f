-- The books of a queue. Waiting is counted from what is stored, so that a wrong counter shows.
-- KEYS m · ARGV db
-- Returns {added, waiting, delayed, leased, dead, taken, delivered, acked, deleted, expired, purged,
-- dropped, bytes, 1 when started, 1 when round-robin, 1 when ever added to, consumers, position, GETs that wait}.
--@include keys
--@include state
--@include save
--@include element
if packed and expire() > 0 then save() end
local rare = call('HMGET', P..'a', 'deleted', 'expired', 'purged', 'dropped', 'passed')
for i = 1, 5 do rare[i] = tonumber(rare[i] or 0) end
local there, away, delayed, dead = waiting()
local listening = 0
for _, entry in ipairs(call('HVALS', P..'live')) do
  listening = listening + tonumber(string.match(entry, '%d+$'))
end
return {n - rare[5], there, delayed, away, dead, taken, delivered, acked, rare[1], rare[2], rare[3], rare[4], bytes,
  stopped and 0 or 1, roundrobin and 1 or 0, born and 1 or 0, listening, pos, call('LLEN', P..'wt')}
