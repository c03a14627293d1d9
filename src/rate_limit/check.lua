-- Decides a request against N policies in one atomic step, all or nothing. Mirrors memory.rs: decide.
-- KEYS, ARGV  see policies.lua. VERB: 'check', 'peek', which writes nothing, or 'charge', which takes
--             from each policy whatever they say
-- RETURNS per policy: 1 allowed | 0 denied | -1 banned, remaining, reset µs, retry µs (-1 never),
--         receipt of what was taken (0 nothing)
local verb = ARGV[2]

-- A ban is `<ends µs>`; denials that may become one are `<ends µs>:<denials>`, and end with their count.
local function read_mark(step, mark)
  local ends, denials = mark:match('^(%d+):?(%d*)$')
  ends = tonumber(ends)
  if ends <= now then return end
  if denials == '' then step.says, step.retry = -1, ends - now
  else step.ends, step.denials = ends, tonumber(denials) end
end

-- Mirrors ban_after.rs: deny.
local function count_denial(key, step)
  local most, within, length = step.ban_after:match('^(%d+):(%d+):(%d+)$')
  local ends, denials = math.min(step.ends or math.huge, now + within), (step.denials or 0) + 1
  if denials < tonumber(most) then return put(key, int(ends) .. ':' .. int(denials), ends - now) end
  put(key, int(now + length), tonumber(length))
  step.says, step.retry = -1, tonumber(length)
end

local stored = redis.call('MGET', unpack(KEYS))
local steps, all = { false }, true
for n = 1, count do
  local step = policy(n)
  step.state = step.algorithm.read(KEYS[n], step, now, stored[n])
  step.retry = step.cost > 0 and step.algorithm.retry(step.state, step, now, step.cost) or 0
  step.says = step.retry == 0 and 1 or 0
  local mark = stored[count + n]
  if mark then read_mark(step, mark) end
  all = all and (step.says == 1 or step.shadow)
  steps[n] = step
end

local reply = { 0, 0, 0, 0, 0 }
for n = 1, count do
  local step = steps[n]
  local algorithm, state, rule, receipt = step.algorithm, step.state, step, 0
  local takes = step.cost > 0 and verb ~= 'peek' and (verb == 'charge' or (all and step.says == 1))
  if takes then receipt = algorithm.take(state, rule, now, step.cost) end
  if step.says == 0 and verb == 'check' and #step.ban_after > 1 then count_denial(KEYS[count + n], step) end
  if takes or (state.healed and verb ~= 'peek') then algorithm.write(KEYS[n], state, rule, now) end
  local remaining, reset = algorithm.view(state, rule, now)
  local at = 5 * n - 4
  reply[at], reply[at + 1], reply[at + 2] = step.says, remaining, reset
  reply[at + 3], reply[at + 4] = step.retry, receipt
end
return reply
