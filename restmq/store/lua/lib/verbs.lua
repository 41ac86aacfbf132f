-- The verbs: each file of the folder above defines one, below its contract, which tells its arguments and its answer.
-- args[1] is the same in every call of an instance: see read_context(). The contract names the arguments after it.
local verbs = {}   -- name -> run(keys, args), and the flags of the function
local GROWS = {}   -- it needs memory: Redis refuses it when it is full
local FREES = {'allow-oom'}   -- it frees memory, or notes a little so that another call can
local LOOKS = {'allow-oom', 'no-writes'}
local function verb(name, flags, run)
  verbs[name] = {flags = flags, run = function(keys, args)
    Queue.open(keys[1], args[1])
    return run(args)
  end}
end
local function index_verb(name, run)   -- for keys outside the queues; it has no context
  verbs[name] = {flags = FREES, run = function(keys, args)
    call, clock = redis.call, nil
    return run(keys, args)
  end}
end
