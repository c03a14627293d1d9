-- Counts a lock's TTL anew.
-- KEYS     1 the lock: hash of t (token), f (fence), d (deadline in µs)   2 the fence given out last
-- ARGV     1 token   2 TTL in ms   3 how long KEYS[2] outlives the lock, in ms   4 now in µs, or ''
-- RETURNS  1, or 0 if the token does not hold the lock any more
-- Mirrors  policy.rs, Record::renew
local ttl, now = tonumber(ARGV[2]), now_us(ARGV[4])
local lock = redis.call('HMGET', KEYS[1], 't', 'd')
if lock[1] ~= ARGV[1] or tonumber(lock[2]) <= now then return 0 end
redis.call('HSET', KEYS[1], 'd', int(now + ttl * 1000))
redis.call('PEXPIRE', KEYS[1], int(ttl + 1000))
redis.call('PEXPIRE', KEYS[2], int(ttl + ARGV[3]))
return 1
