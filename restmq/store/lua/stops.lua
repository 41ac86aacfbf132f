-- Which flows are stopped. What ended is not stopped, though nobody swept yet.
-- Returns the scope and the ms until its stop ends, -1 for never, of each that is.
verb('stops', LOOKS, function()
  local answer = {}
  for _, scope in ipairs(SCOPES) do
    local at = tonumber(call('HGET', K.about, 'stop_'..scope) or -1)
    if at == 0 or at > now() then
      answer[#answer + 1], answer[#answer + 2] = scope, at == 0 and -1 or at - now()
    end
  end
  return answer
end)
