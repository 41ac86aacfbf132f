-- Idempotent adds: what a key answered is kept in two generations, swapped when the older is over.
local function remembered(o)   -- the answer to give again, an error reply, or nil
  for _, hash in ipairs({'k0', 'k1'}) do
    local told = call('HGET', P..hash, o.key) or o.written and call('HGET', P..hash, o.written)
    if told then
      local at, digest, first, many = string.match(told, '^(%d+) (%S+) (%d+) (%d+)$')
      if time() - tonumber(at) <= o.window then
        if digest ~= o.digest then return redis.error_reply('CONFLICT') end
        return {tonumber(first), 0, 1, tonumber(many)}
      end
    end
  end
end
local function remember(o, first, many)
  if time() - tonumber(call('HGET', P..'a', 'kt') or 0) > o.window then
    if call('EXISTS', P..'k0') == 1 then
      call('RENAME', P..'k0', P..'k1')
      call('PEXPIRE', P..'k1', o.window)
    end
    call('HSET', P..'a', 'kt', digits(time()))
  end
  call('HSET', P..'k0', o.key, digits(time())..' '..o.digest..' '..digits(first)..' '..digits(many))
  call('PEXPIRE', P..'k0', 2 * o.window)
end
