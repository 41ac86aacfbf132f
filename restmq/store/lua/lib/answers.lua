-- Idempotent adds: the answers to keys are kept in two generations, which are swapped when the older one's time is
-- over.
-- o: the options of an add: key, digest, window in ms, and written: the form in which an earlier RestMQ stored the key.
local Answers = {}
function Answers.earlier(o)   -- the answer to give again, an error reply, or nil
  for _, generation in ipairs({K.answers, K.older_answers}) do
    local answer = call('HGET', generation, o.key) or o.written and call('HGET', generation, o.written)
    if answer then
      local at, digest, first, many = string.match(answer, '^(%d+) (%S+) (%d+) (%d+)$')
      if now() - tonumber(at) <= o.window then
        if digest ~= o.digest then return redis.error_reply('CONFLICT') end
        return {tonumber(first), 0, 1, tonumber(many)}
      end
    end
  end
end
function Answers.keep(o, first, many)
  if now() - Queue.counted('kt') > o.window then
    if call('EXISTS', K.answers) == 1 then
      call('RENAME', K.answers, K.older_answers)
      call('PEXPIRE', K.older_answers, o.window)
    end
    call('HSET', K.about, 'kt', digits(now()))
  end
  call('HSET', K.answers, o.key, digits(now())..' '..o.digest..' '..digits(first)..' '..digits(many))
  call('PEXPIRE', K.answers, 2 * o.window)
end
