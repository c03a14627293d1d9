-- KEYS[1] leases (hash), KEYS[2] entry (hash)
-- ARGV: now ms ('' = the server's), lease, variant, token, length ms, stamp that the caller saw or ''
-- RETURNS {0, 0} granted | {1, ms left} held | {2, 0} filled | {3, ms left} uncacheable
-- Mirrors contend in record.rs.
local now = now_ms(ARGV[1])
local meta = redis.call('HGET', KEYS[2], 'm:' .. ARGV[3])
if meta then
  local stamp, fresh = meta:match('^1|([^|]*)|%d+|(%d+)|')
  if stamp and tonumber(fresh) > now and stamp ~= ARGV[6] then return {2, 0} end
end
local owner, left = held(redis.call('HGET', KEYS[1], ARGV[2]), now)
if owner == '!' then return {3, left} end
if owner and owner ~= ARGV[4] then return {1, left} end
hold(KEYS[1], ARGV[2], ARGV[4], now, tonumber(ARGV[5]))
return {0, 0}
