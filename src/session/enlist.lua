-- Notes that one of a user's sessions was seen. Mirrors memory_users.rs.
-- KEYS[1] the user's sessions: selector -> when it was seen last, ms
-- ARGV 1 now ms|''   2 selector   3 how long the list lives from now, if it would not live longer, ms
-- RETURNS how many are listed
local now = now_ms(ARGV[1])
redis.call('ZADD', KEYS[1], int(now), ARGV[2])
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[3]) then redis.call('PEXPIRE', KEYS[1], ARGV[3]) end
-- The list outlives each of its sessions by their idle timeout, so what was seen that long ago, four
-- times over, has ended; without this, what ended unseen would stay for as long as somebody logs in.
local ended = now - 4 * redis.call('PTTL', KEYS[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', int(ended))
return redis.call('ZCARD', KEYS[1])
