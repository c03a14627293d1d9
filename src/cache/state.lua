-- Between the prelude and each script of the cache.
-- A lease is "owner|until|length"; the owner of the mark of an uncacheable response is "!".
-- RETURNS the owner and the milliseconds left, nothing once it has ended. An end further away than
-- the length means that the clock went back. Mirrors Held::left in record.rs.
local function held(text, now)
  if not text then return end
  local owner, ends, length = text:match('^([^|]*)|(%d+)|(%d+)$')
  if not owner then return end
  local left = tonumber(ends) - now
  if left > 0 and left <= tonumber(length) then return owner, left end
end
-- Writes a lease; the key lives as long as the longest of its leases. Once there are many, those that
-- have ended are swept out, and again when there are twice as many as were left: field '' has that.
local function hold(key, name, owner, now, length)
  local many = redis.call('HLEN', key)
  if many > 64 and many >= tonumber(redis.call('HGET', key, '') or '0') then
    local fields, left = redis.call('HGETALL', key), 0
    for at = 1, #fields, 2 do
      if held(fields[at + 1], now) then left = left + 1 else redis.call('HDEL', key, fields[at]) end
    end
    redis.call('HSET', key, '', int(2 * left))
  end
  redis.call('HSET', key, name, owner .. '|' .. int(now + length) .. '|' .. int(length))
  if redis.call('PTTL', key) < length then redis.call('PEXPIRE', key, int(length)) end
end
-- Wakes those that wait. A hint only: that an ACL forbids it must not undo the rest.
local function tell(channel)
  redis.pcall('PUBLISH', channel, '')
end
