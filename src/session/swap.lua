-- Replaces the value of one field if it is still what the caller has seen. Mirrors policy::swap.
-- KEYS[1] session
-- ARGV 1 now ms|''   2 presented .v   3 field   4 the value seen|'' (none)   5 the new value
--      6 max fields   7 max bytes
-- RETURNS {1, ttl ms, idle ms, the user in whose list it is to be noted|''} | {2, value|''} it holds another value
--       | {0} gone | {-1, 'fields'|'bytes'} over a limit | {-4} rotated less than 60 s ago
local now = now_ms(ARGV[1])
local meta = read('.v', '.u', '.i', '.x', '.b', '.p', '.r', '.s')
local refused = refusal(meta, ARGV[2], now)
if refused then return refused end
local held = redis.call('HGET', key, ARGV[3])
if (held or '') ~= ARGV[4] then return {2, held or ''} end
weigh(meta)
replace(ARGV[3], held, ARGV[5])
refused = over(ARGV[6], ARGV[7])
if refused then return refused end
local idle = tonumber(meta['.i'])
local ttl = ttl_of(idle, tonumber(meta['.x']), now)
if ttl <= 0 then
  redis.call('UNLINK', key)
  return {0}
end
redis.call('HSET', key, ARGV[3], ARGV[5], '.b', int(bytes))
redis.call('PEXPIRE', key, int(ttl))
return {1, ttl, idle, to_note(meta, idle, now)}
