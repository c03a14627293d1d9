-- Gives back what check.lua took: another key, in another slot of a cluster, denied the request.
-- KEYS  one per policy, all different
-- ARGV  as for check.lua
-- RETURNS per policy: 1, remaining, reset µs, 0
local now = now_us(ARGV[1])

local reply = {}
for n, key in ipairs(KEYS) do
  local at = 4 * n - 1
  local algorithm = algorithms[ARGV[at]]
  local rule = { burst = tonumber(ARGV[at + 1]), interval = tonumber(ARGV[at + 2]) }
  local state = algorithm.refund(key, rule, tonumber(ARGV[at + 3]), now)
  algorithm.store(key, state, now)
  local remaining, reset = algorithm.view(rule, state, now)
  reply[#reply + 1] = 1
  reply[#reply + 1] = remaining
  reply[#reply + 1] = reset
  reply[#reply + 1] = 0
end
return reply
