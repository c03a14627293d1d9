-- KEYS    1 the record, a hash      2 the fence counter, kept beyond it
-- ARGV    1 token   2 fingerprint   3 lease, µs   4 life of a pending record, ms
--         5 'retry' or 'reject', for orphans      6 now, µs, or '' for the server's own
-- RETURNS {'acquired', fence, attempts} | {'replay', outcome} | {'busy', left, µs} | {'mismatch'}
--         | {'orphan', attempts} | {'version', what it is}
-- As policy::begin and policy::fence.
-- Fields: v format, s 'P' pending or 'C' complete, p fingerprint, t token, f fence, n attempts,
--         d deadline of the lease in µs, r outcome
local record = redis.call('HMGET', KEYS[1], 'v', 's', 'p', 't', 'f', 'n', 'd', 'r')
local version, state, print, token, fence, attempts, deadline, outcome = unpack(record)
local now = now_us(ARGV[6])

local function hold(fence, attempts)
  redis.call('HSET', KEYS[1], 'v', '1', 's', 'P', 'p', ARGV[2], 't', ARGV[1],
    'f', fence, 'n', attempts, 'd', int(now + ARGV[3]))
  redis.call('PEXPIRE', KEYS[1], ARGV[4])
  return {'acquired', fence, attempts}
end

if version ~= '1' and redis.call('EXISTS', KEYS[1]) == 1 then
  return {'version', version or ''}
end
if version then
  if print ~= ARGV[2] then return {'mismatch'} end
  if state == 'C' then return {'replay', outcome} end
  if token == ARGV[1] then return hold(fence, attempts) end
  local left = deadline - now
  if left > 0 then return {'busy', int(left)} end
  if ARGV[5] == 'reject' then return {'orphan', attempts} end
end

local last = math.max(tonumber(redis.call('GET', KEYS[2]) or 0), tonumber(fence or 0))
local next_fence = int(math.max(last + 1, now))
redis.call('SET', KEYS[2], next_fence, 'PX', int(2 * ARGV[4]))
return hold(next_fence, int((attempts or 0) + 1))
