-- KEYS    1 the record, a hash
-- ARGV    1 channel of the hints about it
-- RETURNS 1, or 0 if there is none
-- The record of another version goes too; the fence counter stays.
if redis.call('DEL', KEYS[1]) == 0 then return 0 end
redis.pcall('PUBLISH', ARGV[1], '')
return 1
