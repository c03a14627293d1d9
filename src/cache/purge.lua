-- KEYS[1] purged tags (zset): "h" or "s" and a tag, '' the floor, '.' the end of the sequence
-- ARGV: now µs ('' = the server's), the last purge that the caller knows, tags that there may be,
--       '1' if it is to be done only if the sequence has lost that purge, else ''; then each member
-- RETURNS 1 purged | 0 not lost | 2 purged, and everything else too, since the sequence has lost it
-- Mirrors Purges::purge in purges.rs.
-- The end stands one above the last purge, so whoever asks for what is above the last purge that they
-- know always gets it, and notices if the sequence has fallen behind. So does whoever purges: nobody
-- would notice any more once the sequence has gone on from where it fell back to.
local seen = tonumber(ARGV[2])
local top = tonumber(redis.call('ZRANGE', KEYS[1], -1, -1, 'WITHSCORES')[2] or '0')
local lost = seen > 0 and top <= seen
if ARGV[4] == '1' and not lost then return 0 end
local number = int(math.max(now_us(ARGV[1]), top + 1, seen + 2))
if lost then redis.call('ZADD', KEYS[1], number, 'h' .. ('*'):rep(22)) end
for at = 5, #ARGV do redis.call('ZADD', KEYS[1], number, ARGV[at]) end
redis.call('ZADD', KEYS[1], int(tonumber(number) + 1), '.')
redis.call('ZADD', KEYS[1], 'NX', 0, '')
local over = redis.call('ZCARD', KEYS[1]) - 2 - tonumber(ARGV[3])
if over > 0 then
  -- The floor is the lowest of all; it takes the number of the highest that goes.
  local gone = redis.call('ZRANGE', KEYS[1], 0, over)
  local cut = redis.call('ZSCORE', KEYS[1], gone[#gone])
  for _, member in ipairs(gone) do redis.call('ZREM', KEYS[1], member) end
  redis.call('ZADD', KEYS[1], cut, '')
end
return lost and 2 or 1
