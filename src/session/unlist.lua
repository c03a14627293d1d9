-- Strikes sessions off a user's list. Mirrors memory_users.rs.
-- KEYS[1] the user's sessions: selector -> when it was seen last, ms
-- ARGV 1 now ms|''   2 spares those that were seen less than this many ms ago   selector*
-- RETURNS how many went
local before, gone = now_ms(ARGV[1]) - ARGV[2], 0
for n = 3, #ARGV do
  local seen = redis.call('ZSCORE', KEYS[1], ARGV[n])
  if seen and tonumber(seen) <= before then gone = gone + redis.call('ZREM', KEYS[1], ARGV[n]) end
end
return gone
