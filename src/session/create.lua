-- Makes a session at a selector that nobody has. Mirrors policy::create.
-- KEYS[1] session
-- ARGV 1 now ms|''   2 .v   3 user|''   4 idle ms   5 absolute lifetime ms|'' (none)   6 max fields   7 max bytes
--      (field, value)*
-- RETURNS {1, ttl ms} | {0} the selector is taken | {-1, 'fields'|'bytes'} over a limit
local key, first = KEYS[1], 8
if redis.call('EXISTS', key) == 1 then return {0} end

local bytes = 0
for at = first, #ARGV do bytes = bytes + #ARGV[at] end
if (#ARGV - first + 1) / 2 > tonumber(ARGV[6]) then return {-1, 'fields'} end
if bytes > tonumber(ARGV[7]) then return {-1, 'bytes'} end

local now, ttl, deadline = now_ms(ARGV[1]), tonumber(ARGV[4]), 0
if ARGV[5] ~= '' then
  deadline = now + ARGV[5]
  ttl = math.min(ttl, deadline - now)
end
redis.call('HSET', key, '.v', ARGV[2], '.c', int(now), '.i', ARGV[4], '.x', int(deadline),
  '.u', ARGV[3], '.b', int(bytes), unpack(ARGV, first))
redis.call('PEXPIRE', key, int(ttl))
return {1, ttl}
