-- KEYS    1 the record, a hash
-- ARGV    1 outcome   2 life of a complete record, ms   3 channel of the hints about it
--         4 now, µs, or ''
-- RETURNS {'settled'} | {'running', left of the lease in µs} | {'complete'} | {'absent'}
--         | {'version', what it is}
-- As policy::settle. The token goes, so that a holder that was only paused finds its claim lost.
local version, state, deadline = unpack(redis.call('HMGET', KEYS[1], 'v', 's', 'd'))
if version ~= '1' then
  if redis.call('EXISTS', KEYS[1]) == 0 then return {'absent'} end
  return {'version', version or ''}
end
if state == 'C' then return {'complete'} end
local left = deadline - now_us(ARGV[4])
if left > 0 then return {'running', int(left)} end
redis.call('HSET', KEYS[1], 's', 'C', 'r', ARGV[1], 't', '')
redis.call('HDEL', KEYS[1], 'd')
redis.call('PEXPIRE', KEYS[1], ARGV[2])
redis.pcall('PUBLISH', ARGV[3], '')
return {'settled'}
