-- Denies the keys of N policies for a time. Mirrors memory.rs: ban.
-- KEYS  the policies' bans
-- ARGV  now in µs, or '' for the server's TIME; how long, in µs
local ends = now_us(ARGV[1]) + tonumber(ARGV[2])
local ttl = math.ceil(tonumber(ARGV[2]) / 1000) + (ARGV[1] ~= '' and 3600000 or 0)
for _, key in ipairs(KEYS) do redis.call('SET', key, int(ends), 'PX', int(ttl)) end
