-- Makes a session at a selector that nobody has. Mirrors policy::create.
-- KEYS[1] session
-- ARGV 1 now ms|''   2 .v   3 user|''   4 idle ms   5 absolute lifetime ms|'' (none)   6 '1' = its cookie persists
--      7 device|''   8 max fields   9 max bytes   (field, value)*
-- RETURNS {1, ttl ms} | {0} the selector is taken | {-1, 'fields'|'bytes'} over a limit
local first = 10
if redis.call('EXISTS', key) == 1 then return {0} end

for n = first, #ARGV, 2 do replace(ARGV[n], nil, ARGV[n + 1]) end
local refused = over(ARGV[8], ARGV[9])
if refused then return refused end

local now, deadline = now_ms(ARGV[1]), 0
if ARGV[5] ~= '' then deadline = now + ARGV[5] end
local ttl = ttl_of(tonumber(ARGV[4]), deadline, now)
redis.call('HSET', key, '.v', ARGV[2], '.c', int(now), '.i', ARGV[4], '.x', int(deadline),
  '.u', ARGV[3], '.b', int(bytes), unpack(ARGV, first))
if ARGV[3] ~= '' then redis.call('HSET', key, '.s', int(now)) end
if ARGV[6] == '1' then redis.call('HSET', key, '.m', '1') end
if ARGV[7] ~= '' then redis.call('HSET', key, '.d', ARGV[7]) end
redis.call('PEXPIRE', key, int(ttl))
return {1, ttl}
