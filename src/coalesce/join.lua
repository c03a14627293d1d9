-- KEYS    1 who makes the answer: a token    2 what the one who is followed has left, else as 1
-- ARGV    1 token   2 lease, ms   3 '1' if somebody is followed, else ''
-- RETURNS {'landed', outcome} | {'follow', token of the leader, left of its lease in ms} | {'lead'}
-- As policy::join.
local landed = ARGV[3] == '1' and redis.call('GET', KEYS[2])
if landed then return {'landed', landed} end
local leader = redis.call('GET', KEYS[1])
if leader and leader ~= ARGV[1] then
  return {'follow', leader, string.format('%.0f', redis.call('PTTL', KEYS[1]))}
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return {'lead'}
