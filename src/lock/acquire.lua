-- Takes a lock that nobody holds, or says how long it is held yet.
-- KEYS     1 the lock: hash of t (token), f (fence), d (deadline in µs)   2 the fence given out last
-- ARGV     1 token   2 TTL in ms   3 how long KEYS[2] outlives the lock, in ms   4 now in µs, or ''
-- RETURNS  {1, fence} if it is ours (also: still), {0, µs left} if another holds it
-- Mirrors  policy.rs, Record::acquire
local token, ttl, now = ARGV[1], tonumber(ARGV[2]), now_us(ARGV[4])
local lock = redis.call('HMGET', KEYS[1], 't', 'f', 'd')
local left = (tonumber(lock[3] or 0)) - now
local fence = lock[2]
if left > 0 then
  if lock[1] ~= token then return {0, int(left)} end
else
  fence = int(math.max((tonumber(redis.call('GET', KEYS[2]) or 0)) + 1, now))
end
redis.call('SET', KEYS[2], fence, 'PX', int(ttl + ARGV[3]))
redis.call('HSET', KEYS[1], 't', token, 'f', fence, 'd', int(now + ttl * 1000))
-- The deadline decides, so the key stays a little longer than it says anything.
redis.call('PEXPIRE', KEYS[1], int(ttl + 1000))
return {1, fence}
