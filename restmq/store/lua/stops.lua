-- Which flows are stopped. A stop that has ended does not count, even before a sweep.
-- Returns, of each: its name, and the ms until the stop ends, -1 for never.
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
