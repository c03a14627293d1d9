-- Decides a request against N policies in one atomic step, all or nothing. Mirrors MemoryStore::check.
-- KEYS  one per policy, all different
-- ARGV  now in µs, or '' for the server's TIME; 1 to charge, 0 to look; then per policy: algorithm,
--       burst, interval µs, cost
-- RETURNS per policy: 1|0 allowed, remaining, reset µs, retry µs (-1 never); the verdict is all of them
local now = now_us(ARGV[1])

local steps, all = {}, ARGV[2] == '1'
for n, key in ipairs(KEYS) do
  local at = 4 * n - 1
  local algorithm = algorithms[ARGV[at]]
  local rule = { burst = tonumber(ARGV[at + 1]), interval = tonumber(ARGV[at + 2]) }
  local step = algorithm.decide(key, rule, tonumber(ARGV[at + 3]), now)
  step.algorithm, step.rule = algorithm, rule
  steps[n] = step
  all = all and step.allowed
end

local reply = {}
for n, step in ipairs(steps) do
  local state = all and step.after or step.before
  if all or step.clamped then step.algorithm.store(KEYS[n], state, now) end
  local remaining, reset = step.algorithm.view(step.rule, state, now)
  reply[#reply + 1] = step.allowed and 1 or 0
  reply[#reply + 1] = remaining
  reply[#reply + 1] = reset
  reply[#reply + 1] = step.retry
end
return reply
