-- KEYS    1 the record, a hash
-- ARGV    1 token   2 channel of the hints about it
-- RETURNS 1, or 0 if the token does not hold a pending record
-- As policy::holds.
local state, token = unpack(redis.call('HMGET', KEYS[1], 's', 't'))
if state ~= 'P' or token ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1])
redis.pcall('PUBLISH', ARGV[2], '')
return 1
