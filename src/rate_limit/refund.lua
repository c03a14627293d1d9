-- Gives back what check.lua took, or counts its leases anew. Mirrors memory.rs: settle.
-- KEYS, ARGV  see policies.lua. VERB: 'refund' or 'renew'
-- RETURNS per policy: 1, or 0 if a lease that was to be renewed has ended; remaining, reset µs, 0, 0
local verb = ARGV[2]
local stored, reply = redis.call('MGET', unpack(KEYS, 1, count)), {}
for n = 1, count do
  local step = policy(n)
  local algorithm, rule, key = step.algorithm, step, KEYS[n]
  local state, says = algorithm.read(key, rule, now, stored[n]), 1
  if verb == 'renew' then
    if algorithm.renew then says = algorithm.renew(state, rule, now) and 1 or 0 end
  elseif step.cost > 0 then
    algorithm.give(state, rule, now, step.cost, step.receipt)
    if state.reread then state = algorithm.read(key, rule, now) end
  end
  algorithm.write(key, state, rule, now)
  local remaining, reset = algorithm.view(state, rule, now)
  for _, number in ipairs({ says, remaining, reset, 0, 0 }) do reply[#reply + 1] = number end
end
return reply
