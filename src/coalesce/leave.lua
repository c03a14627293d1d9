-- KEYS    1 who makes the answer: a token
-- ARGV    1 token   2 channel of those who wait
-- RETURNS 1, or 0 if it is somebody else, or nobody
-- As policy::leads.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1])
redis.pcall('PUBLISH', ARGV[2], '')
return 1
