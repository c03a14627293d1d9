-- Gives a lock up and wakes those who wait for it.
-- KEYS     1 the lock: hash of t (token), f (fence), d (deadline in µs)
-- ARGV     1 token   2 the channel of its waiters   3 now in µs, or ''
-- RETURNS  1, or 0 if the token does not hold the lock any more
-- Mirrors  policy.rs, Record::release
local lock = redis.call('HMGET', KEYS[1], 't', 'd')
if lock[1] ~= ARGV[1] or tonumber(lock[2]) <= now_us(ARGV[3]) then return 0 end
redis.call('DEL', KEYS[1])
-- A hint only: that an ACL forbids it must not make a failure of a release that is done.
redis.pcall('PUBLISH', ARGV[2], '')
return 1
