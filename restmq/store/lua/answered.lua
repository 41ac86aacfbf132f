-- Answers an add that Redis refuses because it is full: with what an earlier add with the same key got, or with a stop.
-- Arguments: options, as of add.
-- Returns the earlier answer, an error reply, or {}.
verb('answered', FREES, function(args)
  if not Q.packed then return {} end
  Queue.look()
  local o = cjson.decode(args[2])
  return o.key and Answers.earlier(o) or Stops.refusal('add') or {}
end)
