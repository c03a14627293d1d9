-- Says who holds a lock.
-- KEYS     1 the lock: hash of t (token), f (fence), d (deadline in µs)
-- ARGV     1 now in µs, or ''
-- RETURNS  {token, fence, µs left}, or nil if nobody holds it
-- Mirrors  policy.rs, Record::held_by
local lock = redis.call('HMGET', KEYS[1], 't', 'f', 'd')
local left = (tonumber(lock[3] or 0)) - now_us(ARGV[1])
if left <= 0 then return false end
return {lock[1], lock[2], left}
