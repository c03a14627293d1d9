-- KEYS[1] leases (hash), KEYS[2] entry (hash)
-- ARGV: now ms ('' = the server's), lease, variant, token, age ms, lifetime ms, stale ms, cost ms,
--       response, channel
-- RETURNS 1 stored | 0 refused
-- Mirrors holds and Meta::new in record.rs.
-- Field x is when the key expires: a lookup learns the server's time from it and PTTL.
local now = now_ms(ARGV[1])
if held(redis.call('HGET', KEYS[1], ARGV[2]), now) ~= ARGV[4] then return 0 end
local age = tonumber(ARGV[5])
local fresh = math.max(0, now + tonumber(ARGV[6]) - age)
local keep = fresh + tonumber(ARGV[7])
if keep <= now then return 0 end
local meta = table.concat(
  {'1', ARGV[4], int(math.max(0, now - age)), int(fresh), int(keep), ARGV[8]}, '|')
local ends = math.max(keep, tonumber(redis.call('HGET', KEYS[2], 'x') or '') or 0)
redis.call('HSET', KEYS[2], 'x', int(ends), 'm:' .. ARGV[3], meta, 'b:' .. ARGV[3], ARGV[9])
redis.call('PEXPIRE', KEYS[2], int(ends - now))
redis.call('HDEL', KEYS[1], ARGV[2])
tell(ARGV[10])
return 1
