-- The queue's hot state: read with one GET, stored with one SET. Numbers are doubles, exact to 2^53.
--   last       number of the element that was added last
--   bytes      of all values that are stored
--   cursor     everything in the stream up to this number was handed out, or waits again
--   due        ms of the next end of a ttl, lease, delay or stop; 0 for none
--   taken acked delivered   how many elements
--   position   of the last broadcast
--   settled    position up to which broadcasts are confirmed for good
--   reached    highest position that any instance has confirmed
--   sum        bytes that ever entered the history
--   cut        the same before the first entry that is kept
--   floor      position before the first entry that is kept
--   owed       elements that the head of the ring may still get in its turn
--   flags      1 created; 2 special: there is more than plain waiting; 4 awaited: a GET waits; 8 listened: an instance
--              listens; 16 roundrobin; 32 stopped: the flow live is; 64 governed: it has settings, other stops or taps
local FORM = '>ddddddddddddddB'
local Q = {}   -- the state of this call's queue
local Queue = {}

-- The defaults of restmq.conf come with each call, so that two instances with different files share a library.
local BUILT_IN = @defaults@
local NAMES = @names@   -- the settings other than policy
local UNBOUND = {policy = true, history = true, history_bytes = true}   -- with these, an add may still be plain
local defaults, governed_when_created, context_text   -- and the text from which they were read
local settings   -- of this call's queue: name -> value; only after Queue.begin()
local function read_context(text)   -- the database, and as JSON where restmq.conf differs from BUILT_IN
  local number, conf = string.match(text, '^(%d+) ?(.*)$')
  db, context_text, defaults, governed_when_created = number, text, {}, false
  for name, value in pairs(BUILT_IN) do defaults[name] = value end
  for name, value in pairs(conf ~= '' and cjson.decode(conf) or {}) do
    if value ~= defaults[name] and not UNBOUND[name] then governed_when_created = true end
    defaults[name] = value
  end
end

function Queue.open(key, context)   -- Q.packed tells whether anything is stored
  call, clock = redis.call, nil
  if context ~= context_text then read_context(context) end
  Keys.open(key)
  local packed = call('GET', key)
  Q.packed = packed
  if packed then
    Q.last, Q.bytes, Q.cursor, Q.due, Q.taken, Q.acked, Q.delivered, Q.position, Q.settled, Q.reached, Q.sum, Q.cut,
      Q.floor, Q.owed, Q.flags = struct.unpack(FORM, packed)
  else
    Q.last, Q.bytes, Q.cursor, Q.due, Q.taken, Q.acked, Q.delivered, Q.position, Q.settled, Q.reached, Q.sum, Q.cut,
      Q.floor, Q.owed, Q.flags = 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, defaults.policy == 'roundrobin' and 16 or 0
  end
end
function Queue.store()   -- as it is, with the flags that it had
  call('SET', K.state, struct.pack(FORM, Q.last, Q.bytes, Q.cursor, Q.due, Q.taken, Q.acked, Q.delivered, Q.position,
    Q.settled, Q.reached, Q.sum, Q.cut, Q.floor, Q.owed, Q.flags))
end

local freed, offered   -- leases of live consumers that ended: INSTANCE -> N's; how many elements wait now
function Queue.look()   -- for a call that is no use of the queue
  local flags = Q.flags
  Q.created, Q.special, Q.awaited, Q.listened = flags % 2 >= 1, flags % 4 >= 2, flags % 8 >= 4, flags % 16 >= 8
  Q.roundrobin, Q.stopped, Q.governed = flags % 32 >= 16, flags % 64 >= 32, flags % 128 >= 64
  freed, offered, settings = {}, 0, nil
end
function Queue.offer(many) offered = offered + many end
function Queue.free(owner, number)   -- a consumer of that instance leases it no more
  if owner == '-' then return end
  freed[owner] = freed[owner] or {}
  table.insert(freed[owner], number)
end
function Queue.report_freed()   -- each instance may have as many more; it hears so before it gets any of them again
  for instance, numbers in pairs(freed) do
    local head = 'A '..call('HGET', K.about, 'ep')..' 0\n'
    publish(Keys.instance_channel(instance), head..table.concat(numbers, ' ')..'\n')
  end
  freed = {}
end

local function is_unused()   -- it was only looked at, or listened to: nothing of it needs to be kept
  if Q.last + Q.due > 0 or Q.created or Q.listened or Q.awaited or Q.governed or Q.stopped then return false end
  local names = call('HKEYS', K.about)
  return #names < 2 and (names[1] or 'ep') == 'ep'
end
function Queue.save()   -- stores the state when it changed
  Queue.report_freed()
  if Q.special and Q.due == 0
      and call('EXISTS', K.again, K.apart, K.tries, K.sent, K.expiring, K.leased, K.delayed, K.dead) == 0 then
    Q.special = false
  end
  local flags = (Q.created and 1 or 0) + (Q.special and 2 or 0) + (Q.awaited and 4 or 0) + (Q.listened and 8 or 0)
    + (Q.roundrobin and 16 or 0) + (Q.stopped and 32 or 0) + (Q.governed and 64 or 0)
  local packed = struct.pack(FORM, Q.last, Q.bytes, Q.cursor, Q.due, Q.taken, Q.acked, Q.delivered, Q.position,
    Q.settled, Q.reached, Q.sum, Q.cut, Q.floor, Q.owed, flags)
  if packed == Q.packed then return end
  if is_unused() then call('DEL', K.state, K.about) else call('SET', K.state, packed) end
end
function Queue.epoch() return call('HGET', K.about, 'ep') end   -- false when it has none
function Queue.begin_epoch(epoch) call('HSETNX', K.about, 'ep', epoch) end
function Queue.count(column, by) if by ~= 0 then call('HINCRBY', K.about, column, digits(by)) end end
function Queue.counted(column) return tonumber(call('HGET', K.about, column) or 0) end
function Queue.due_at(at)
  Q.special = true
  if Q.due == 0 or at < Q.due then Q.due = at end
end
function Queue.due_in() return Q.due > 0 and math.max(0, Q.due - now()) or -1 end   -- ms; -1 for never
