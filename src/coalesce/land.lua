-- KEYS    1 who makes the answer: a token    2 what this one leaves
-- ARGV    1 token   2 outcome   3 how long it is kept for those who wait, ms   4 their channel
-- RETURNS 1, or 0 if it is somebody else, or nobody
-- As policy::leads. Whoever comes from here on leads anew: the outcome is older than its request.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1])
redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3])
redis.pcall('PUBLISH', ARGV[4], '')
return 1
