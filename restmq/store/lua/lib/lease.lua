-- Leases: an element is somebody's until a time, and what comes of it when that is over.
local function lease(N, D, ms, owner)   -- D counts this hand-out
  local _, C, F, _, errors = tries(N)
  settries(N, D, C, F, owner, errors)
  call('ZADD', P..'l', digits(time() + ms), N)
  late(time() + ms)
end
local function grip(N)   -- D of whoever has it: by a lease, or on its way to a consumer that may lease it
  if call('ZSCORE', P..'l', N) then return (tries(N)) end
  local owner, D = string.match(slow and call('HGET', P..'y', N) or '', '^(%S+) (%d+)')
  if owner and owner ~= '*' then return tonumber(D), owner end
end
local function holds(N, D, epoch)   -- whether that lease still is the element's; D '': whichever holds
  if ended(N) then return false end
  local mine = grip(N)
  return mine and (D == '' or epoch == call('HGET', P..'a', 'ep') and mine == tonumber(D))
end
local function arrive(N, D, owner)   -- its client acts on it before its instance could tell that it went out
  if not owner then return end
  call('HDEL', P..'y', N)
  unway(owner, N)
  local _, C, F, _, errors = tries(N)
  settries(N, D, C, F, owner, errors)
end
local function pause(F)   -- ms before the next try
  local kind, first, most = string.match(rule.backoff, '^(%a+):(%d+):?(%d*)$')
  if kind == 'fixed' then return tonumber(first) end
  if kind == 'exp' then return math.min(tonumber(first) * 2 ^ math.min(F - 1, 40), tonumber(most)) end
  return 0
end
local function die(N)   -- kept with its key, reasons and hand-outs
  local value = find(N)
  keep(N)
  call('ZADD', P..'g', N, N)
  count('gb', #value)
  if rule.dead_ttl > 0 then
    local at, ends = time() + rule.dead_ttl, call('ZSCORE', P..'t', N)
    if not ends or at < tonumber(ends) then
      call('HSET', P..'u', N, ends or 0)
      call('ZADD', P..'t', digits(at), N)
      late(at)
    end
  end
end
local function clip(text, most)   -- its first bytes, but no part of a character: bytes 128 to 191 go on with one (RFC 3629)
  if #text <= most then return text end
  while most > 0 and string.find(text, '^[\128-\191]', most + 1) do most = most - 1 end
  return string.sub(text, 1, most)
end
local function release(N, failed, delay, reason, dies)   -- ms of delay, or nil for what the rules say
  arrive(N, grip(N))
  local D, C, F, owner, errors = tries(N)
  call('ZREM', P..'l', N)
  free(owner, N)
  if failed then F = F + 1 end
  if reason ~= '' then
    errors = errors..'\n'..clip(string.gsub(reason, '%c', ' '), 200)
    if #errors > 2000 then errors = string.match(string.sub(errors, -2000), '\n.*$') end
  end
  settries(N, D, C, F, '-', errors)
  if dies or (failed and rule.max_deliveries > 0 and F >= rule.max_deliveries) then die(N) return end
  delay = delay or (failed and pause(F) or 0)
  if delay > 0 then
    keep(N)
    call('ZADD', P..'d', digits(time() + delay), N)
    late(time() + delay)
  else again(N) end
end
