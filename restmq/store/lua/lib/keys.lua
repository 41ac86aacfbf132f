-- The keyspace. Every key of a queue is restmq:{NAME}:x, so one node of a cluster holds the queue. A function gets the
-- first key, restmq:{NAME}:m, and makes the others from it. They share its hash slot. Below, N is an element's number,
-- and P its position among the queue's broadcasts.
--   state         m       string  the queue's hot state, packed: see queue.lua. Without it the queue was never used
--   stream        q       stream  N-T (T: ms of adding) -> v: every element that is there, except for those apart
--   apart         e       hash    N -> "T VALUE": what is or was delayed or dead; a stream frees whole nodes only
--   again         r       zset    N by N: waits again. All that wait: those in the stream beyond the cursor, and these
--   tries         x       hash    N -> "HANDED SHOWN FAILED OWNER" and a line for each error: how often it was handed
--                                 out, shown by get, and failed; OWNER is the instance whose live consumer leases it,
--                                 or -. Absent while all are 0
--   sent          y       hash    N -> "OWNER HANDED T LENGTH": in flight to live consumers; OWNER is an instance, or *
--                                 for a broadcast
--   unconfirmed   b       zset    N by P: broadcast, and not confirmed by any instance yet
--   leased        l       zset    N by the ms at which its lease ends
--   delayed       d       zset    N by the ms at which it is due
--   expiring      t       zset    N by the ms at which its ttl ends
--   dead          g       zset    N by N
--   own_ttl       u       hash    N -> ms at which its own ttl ends, 0 for never: of the dead that dead_ttl ends earlier
--   history       h       stream  P-N -> v, t, s[, e]: broadcasts in order of delivery; t ms of delivery, s bytes of
--                                 all values up to this one, so that the size of a range is a subtraction, e its end
--   ring          ring    list    instances that listen; its head gets the next round-robin elements
--   listeners     live    hash    INSTANCE -> "READY ROOM COUNT": consumers that take, how many elements may be in
--                                 flight to them (including those stuck in others' buffers), consumers
--   joined        from    hash    INSTANCE -> "JOINED CONFIRMED": P when it joined, P that some socket of it has taken
--   holders       ways    set     instances for which there may be a set of what they hold
--   lost          lost    list    names of such sets of an epoch that Redis lost: they are given back in steps
--   reaped        gone    set     instances that were reaped lately: they may not come again under that id
--   taken_back    void    list    "FROM TO": ranges of P that were taken back, the last twenty
--   waiters       wt      list    an instance for each GET that waits, in order of arrival
--   taps          taps    hash    INSTANCE -> 1: instances that want to see every add
--   answers       k0      hash    idempotency key -> "MS DIGEST FIRST COUNT"
--   older_answers k1      hash    the same of the generation before
--   about         a       hash    ep epoch, ex the epoch that Redis lost, policy, the settings (settings.lua), sv how
--                                 often they were changed, stop_live stop_pull stop_add ms at which a stop ends (0
--                                 never), used ms of the last use, kt ms at which `answers` began, gb bytes of the
--                                 dead, owed GETs still to be woken, emptied the last number when it was purged, and
--                                 the rare counters: deleted expired purged dropped, passed numbers that were passed over
--   way:INSTANCE          set     N: round-robin elements that an instance holds: Keys.held()
--   lost:EPOCH:INSTANCE   set     the same of an epoch that Redis lost
--   back:ID               string  an element was brought back, kept for two minutes: Keys.brought_back()
-- Outside the queues, in hash slots of their own, and only hints:
--   restmq:names  zset of names; restmq:{due}:at, restmq:{due}:claimed  zsets of what is due next
--   restmq:{inst}:alive :doomed :libraries  zsets, :last  string, :q:INSTANCE  sets of queues
--   restmq:layout  the version of this keyspace, and the id of the data
local SUFFIXES = {
  stream = 'q', apart = 'e', again = 'r', tries = 'x', sent = 'y', unconfirmed = 'b', leased = 'l', delayed = 'd',
  expiring = 't', dead = 'g', own_ttl = 'u', history = 'h', ring = 'ring', listeners = 'live', joined = 'from',
  holders = 'ways', lost = 'lost', reaped = 'gone', taken_back = 'void', waiters = 'wt', taps = 'taps',
  answers = 'k0', older_answers = 'k1', about = 'a',
}
local K   -- the keys of this call's queue, by the names above
local Keys = {}
local lazily = {__index = function(keys, name)
  local key = keys.prefix..SUFFIXES[name]
  keys[name] = key
  return key
end}
local by_state, queues = {}, 0   -- the keys of the queues that were used lately

function Keys.open(state)
  K = by_state[state]
  if K then return end
  if queues == 1000 then by_state, queues = {}, 0 end
  K = setmetatable({state = state, prefix = string.sub(state, 1, -2)}, lazily)
  by_state[state], queues = K, queues + 1
end
function Keys.held(instance) return K.prefix..'way:'..instance end
function Keys.brought_back(id) return K.prefix..'back:'..id end
function Keys.broadcasts() return K.prefix..'c'..db end   -- a channel, as the next two
function Keys.adds() return K.prefix..'t'..db end
function Keys.instance_channel(instance) return K.prefix..'i'..db..':'..instance end
