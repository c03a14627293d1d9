-- Applies the changes of one request, or nothing. Mirrors policy::commit.
-- KEYS[1] session
-- ARGV 1 now ms|''   2 presented .v   3 new .v|''   4 new user|''   5 new idle ms|''
--      6 new absolute lifetime ms|'never'|''   7 max fields   8 max bytes   9 '1' = all data goes first
--      sets, (field, value)*, removes, field*, increments, (field, by)*
--      a field is in one list at most, once; none starts with a dot
-- RETURNS {1, ttl ms, sum of each increment as text} | {0} gone | {-1, 'fields'|'bytes'} over a limit
--       | {-2, field} not an integer | {-3} bound to another user
local key, clear, MAX = KEYS[1], ARGV[9] == '1', 9007199254740991
-- Hashes are compared, so what the time of it tells is no help in finding the verifier.
local meta = redis.call('HMGET', key, '.v', '.u', '.i', '.x', '.b', '.c')
local bound, idle, deadline = meta[2], tonumber(meta[3]), tonumber(meta[4])
if not meta[1] or meta[1] ~= ARGV[2] then return {0} end
if ARGV[4] ~= '' and bound and bound ~= '' and bound ~= ARGV[4] then return {-3} end

local at = 10
local function list(width)
  local first, count = at + 1, tonumber(ARGV[at]) * width
  at = first + count
  return first, at - 1
end
local s1, s2 = list(2)
local r1, r2 = list(1)
local i1, i2 = list(2)

-- Every check comes before the first write: a script that fails half-way is not rolled back.
local fields, bytes = 0, 0
if not clear then
  fields, bytes = redis.call('HLEN', key), tonumber(meta[5])
  for n = 1, 6 do if meta[n] then fields = fields - 1 end end
end
local function replace(field, was, new)
  if was then fields, bytes = fields - 1, bytes - #field - #was end
  if new then fields, bytes = fields + 1, bytes + #field + #new end
end
local function old(field) return not clear and redis.call('HGET', key, field) end
for n = s1, s2, 2 do replace(ARGV[n], old(ARGV[n]), ARGV[n + 1]) end
for n = r1, r2 do replace(ARGV[n], old(ARGV[n]), nil) end
local sums = {}
for n = i1, i2, 2 do
  local was, by = old(ARGV[n]), tonumber(ARGV[n + 1])
  local value = tonumber(string.match(was or '0', '^%-?%d+$'))
  if not value or math.max(math.abs(value), math.abs(by), math.abs(value + by)) > MAX then
    return {-2, ARGV[n]}
  end
  sums[#sums + 1] = int(value + by)
  replace(ARGV[n], was, sums[#sums])
end
if s1 <= s2 or i1 <= i2 then
  if fields > tonumber(ARGV[7]) then return {-1, 'fields'} end
  if bytes > tonumber(ARGV[8]) then return {-1, 'bytes'} end
end
local now = now_ms(ARGV[1])
if ARGV[5] ~= '' then idle = tonumber(ARGV[5]) end
if ARGV[6] == 'never' then deadline = 0 elseif ARGV[6] ~= '' then deadline = now + ARGV[6] end
local ttl = deadline > 0 and math.min(idle, deadline - now) or idle
if ttl <= 0 then
  redis.call('UNLINK', key)
  return {0}
end

local names = clear and redis.call('HKEYS', key) or {}
for n = 1, #names do if names[n]:sub(1, 1) ~= '.' then redis.call('HDEL', key, names[n]) end end
for n = r1, r2 do redis.call('HDEL', key, ARGV[n]) end
for n = s1, s2, 2 do redis.call('HSET', key, ARGV[n], ARGV[n + 1]) end
for n = 1, #sums do redis.call('HSET', key, ARGV[i1 + 2 * n - 2], sums[n]) end
if clear or s1 <= s2 or r1 <= r2 or i1 <= i2 then redis.call('HSET', key, '.b', int(bytes)) end
if ARGV[3] ~= '' then redis.call('HSET', key, '.v', ARGV[3]) end
if ARGV[4] ~= '' then redis.call('HSET', key, '.u', ARGV[4]) end
if ARGV[5] ~= '' then redis.call('HSET', key, '.i', ARGV[5]) end
if ARGV[6] ~= '' then redis.call('HSET', key, '.x', int(deadline)) end
redis.call('PEXPIRE', key, int(ttl))
return {1, ttl, unpack(sums)}
