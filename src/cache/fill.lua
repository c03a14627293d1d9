-- KEYS[1] leases (hash), KEYS[2] entry (hash)
-- ARGV: now ms ('' = the server's), lease, variant, token, age ms, lifetime ms, stale ms, cost ms,
--       response, channel, names by which the variant was found, variants that there may be,
--       last purge known before it was begun, tags
-- RETURNS {1, ''} stored | {0, ''} refused | {2, names by which the entry varies}
-- Mirrors holds, covers and Meta::new in record.rs.
-- Field x is when the key expires: a lookup learns the server's time from it and PTTL. Field v has
-- the names by which the entry varies. Fields of another variant go once nobody would find them, and
-- all of them if there are too many.
local now = now_ms(ARGV[1])
if held(redis.call('HGET', KEYS[1], ARGV[2]), now) ~= ARGV[4] then return {0, ''} end
local age = tonumber(ARGV[5])
local fresh = math.max(0, now + tonumber(ARGV[6]) - age)
local keep = fresh + tonumber(ARGV[7])
if keep <= now then return {0, ''} end
local vary = redis.call('HGET', KEYS[2], 'v') or ''
for name in vary:gmatch('[^,]+') do
  if not (',' .. ARGV[11] .. ','):find(',' .. name .. ',', 1, true) then return {2, vary} end
end
local full = redis.call('HLEN', KEYS[2]) > 2 * tonumber(ARGV[12])
if vary ~= ARGV[11] or (full and not redis.call('HGET', KEYS[2], 'm:' .. ARGV[3])) then
  redis.call('UNLINK', KEYS[2])
end
local meta = table.concat(
  {'1', ARGV[4], int(math.max(0, now - age)), int(fresh), int(keep), ARGV[8],
    ARGV[13], ARGV[14]}, '|')
local ends = math.max(keep, tonumber(redis.call('HGET', KEYS[2], 'x') or '') or 0)
redis.call('HSET', KEYS[2], 'x', int(ends), 'v', ARGV[11],
  'm:' .. ARGV[3], meta, 'b:' .. ARGV[3], ARGV[9])
redis.call('PEXPIRE', KEYS[2], int(ends - now))
redis.call('HDEL', KEYS[1], ARGV[2])
tell(ARGV[10])
return {1, ''}
