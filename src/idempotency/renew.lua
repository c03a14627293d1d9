-- KEYS    1 the record, a hash
-- ARGV    1 token   2 lease, µs   3 life of a pending record, ms   4 now, µs, or ''
-- RETURNS 1, or 0 if the token does not hold a pending record
-- As policy::holds.
local state, token = unpack(redis.call('HMGET', KEYS[1], 's', 't'))
if state ~= 'P' or token ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'd', int(now_us(ARGV[4]) + ARGV[2]))
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
