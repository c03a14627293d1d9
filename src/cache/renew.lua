-- KEYS[1] leases (hash)
-- ARGV: now ms ('' = the server's), lease, token, length ms
-- RETURNS 1 renewed | 0 not held any more
-- Mirrors holds in record.rs.
local now = now_ms(ARGV[1])
if held(redis.call('HGET', KEYS[1], ARGV[2]), now) ~= ARGV[3] then return 0 end
hold(KEYS[1], ARGV[2], ARGV[3], now, tonumber(ARGV[4]))
return 1
