-- KEYS    1 the record, a hash
-- ARGV    1 '1' with the outcome, else ''      2 now, µs, or ''
-- RETURNS {state, fence, attempts, left of the lease in µs, age of the attempt in µs, left of the
--         record in ms, outcome or ''} | {} | {'version', what it is}
-- As policy::look.
local record = redis.call('HMGET', KEYS[1], 'v', 's', 'f', 'n', 'd')
local version, state, fence, attempts, deadline = unpack(record)
if version ~= '1' then
  if redis.call('EXISTS', KEYS[1]) == 0 then return {} end
  return {'version', version or ''}
end
local now, outcome = now_us(ARGV[2]), ''
if ARGV[1] == '1' and state == 'C' then outcome = redis.call('HMGET', KEYS[1], 'r')[1] end
local left = math.max(tonumber(deadline or 0) - now, 0)
local age = math.max(now - fence, 0)
return {state, fence, attempts, int(left), int(age), int(redis.call('PTTL', KEYS[1])), outcome}
