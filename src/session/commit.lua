-- Applies the changes of one request, or nothing. Mirrors policy::commit.
-- KEYS[1] session
-- ARGV 1 now ms|''   2 presented .v   3 new .v|''   4 new user|''   5 new idle ms|''
--      6 new absolute lifetime ms|'never'|''   7 whether its cookie persists '1'|'0'|''   8 device|''
--      9 max fields   10 max bytes   11 '1' = all data goes first   12 the lists of delta.lua
-- RETURNS {1, ttl ms, whether its cookie persists '1'|'0', idle ms, the user in whose list it is to be
--         noted|'', sum of each increment as text}
--       | {0} gone | {-1, 'fields'|'bytes'} over a limit | {-2, field} not an integer
--       | {-3} bound to another user | {-4} rotated less than 60 s ago
local now, clear = now_ms(ARGV[1]), ARGV[11] == '1'
local meta = read('.v', '.u', '.i', '.x', '.b', '.p', '.r', '.s', '.m')
local refused = refusal(meta, ARGV[2], now)
if refused then return refused end
local user = meta['.u'] or ''
if ARGV[4] ~= '' and user ~= '' and user ~= ARGV[4] then return {-3} end

-- Every check comes before the first write: a script that fails half-way is not rolled back.
if not clear then weigh(meta) end
local delta
delta, refused = decide(12, clear)
if delta and delta.grows then refused = over(ARGV[9], ARGV[10]) end
if refused then return refused end
local idle, deadline = tonumber(ARGV[5] ~= '' and ARGV[5] or meta['.i']), tonumber(meta['.x'])
if ARGV[6] == 'never' then deadline = 0 elseif ARGV[6] ~= '' then deadline = now + ARGV[6] end
local ttl = ttl_of(idle, deadline, now)
if ttl <= 0 then
  redis.call('UNLINK', key)
  return {0}
end

local sums = write(delta)
local function put(field, value) if value ~= '' then redis.call('HSET', key, field, value) end end
if ARGV[3] ~= '' then redis.call('HSET', key, '.v', ARGV[3], '.p', meta['.v'], '.r', int(now)) end
put('.u', ARGV[4])
put('.i', ARGV[5])
if ARGV[6] ~= '' then put('.x', int(deadline)) end
put('.m', ARGV[7])
put('.d', ARGV[8])
-- Whoever binds it notes it.
if ARGV[4] ~= '' then put('.s', int(now)) end
local note = ARGV[4] == '' and to_note(meta, idle, now) or ''
redis.call('PEXPIRE', key, int(ttl))
local persists = ARGV[7] ~= '' and ARGV[7] or meta['.m'] or '0'
return {1, ttl, persists, idle, note, unpack(sums)}
