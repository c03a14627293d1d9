-- KEYS    1 the record, a hash
-- ARGV    1 token   2 outcome   3 life of a complete record, ms   4 channel of the hints about it
-- RETURNS 'stored' | 'already' | 'lost'
-- As policy::complete.
local state, token = unpack(redis.call('HMGET', KEYS[1], 's', 't'))
if not token or token ~= ARGV[1] then return 'lost' end
if state == 'C' then return 'already' end
redis.call('HSET', KEYS[1], 's', 'C', 'r', ARGV[2])
redis.call('HDEL', KEYS[1], 'd')
redis.call('PEXPIRE', KEYS[1], ARGV[3])
redis.pcall('PUBLISH', ARGV[4], '')
return 'stored'
