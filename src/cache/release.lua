-- KEYS[1] leases (hash)
-- ARGV: now ms ('' = the server's), lease, token, ms to mark it as uncacheable or 0, channel
-- RETURNS 1 released | 0 not held any more
-- Mirrors holds in record.rs.
local now = now_ms(ARGV[1])
if held(redis.call('HGET', KEYS[1], ARGV[2]), now) ~= ARGV[3] then return 0 end
local mark = tonumber(ARGV[4])
if mark > 0 then
  hold(KEYS[1], ARGV[2], '!', now, mark)
else
  redis.call('HDEL', KEYS[1], ARGV[2])
end
tell(ARGV[5])
return 1
