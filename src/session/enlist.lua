-- Notes that one of a user's sessions was seen. Mirrors user_memory.rs.
-- KEYS[1] the user's sessions: selector -> when it was seen last, ms
-- ARGV 1 now ms|''   2 selector   3 how long the list lives from now, if it would not live longer, ms
-- RETURNS how many are listed
redis.call('ZADD', KEYS[1], int(now_ms(ARGV[1])), ARGV[2])
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[3]) then redis.call('PEXPIRE', KEYS[1], ARGV[3]) end
return redis.call('ZCARD', KEYS[1])
