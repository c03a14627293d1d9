-- Takes a lock from whoever holds it and wakes those who wait for it.
-- KEYS     1 the lock: hash of t (token), f (fence), d (deadline in µs)
-- ARGV     1 the channel of its waiters   2 now in µs, or ''
-- RETURNS  1, or 0 if nobody holds it
-- Mirrors  policy.rs, Record::force_release
local deadline = redis.call('HMGET', KEYS[1], 'd')[1]
if (tonumber(deadline or 0)) <= now_us(ARGV[2]) then return 0 end
redis.call('DEL', KEYS[1])
-- A hint only: that an ACL forbids it must not make a failure of a release that is done.
redis.pcall('PUBLISH', ARGV[1], '')
return 1
