-- What check.lua and refund.lua share: how the policies of a call are told, and how states are stored.
-- KEYS  the policies' states, all different; then, in the same order, their bans, or what may become one
-- ARGV  now in µs, or '' for the server's TIME; the verb; then, per policy: algorithm, limit, period,
--       extra, cost, receipt; 's' to shadow it, '<denials>:<within µs>:<length µs>' to ban after them, or ''
local now, count = now_us(ARGV[1]), #KEYS / 2

-- Redis counts TTLs by real time, so under a test's clock, which stands still, a key outlives its own.
local grace = ARGV[1] ~= '' and 3600000 or 0
local function ttl_ms(us) return math.ceil(us / 1000) + grace end

-- Stores what is good for another `us`; what is not is as good as no key.
local function put(key, text, us)
  if us <= 0 then redis.call('DEL', key) else redis.call('SET', key, text, 'PX', ttl_ms(us)) end
end

-- Each is a function until it is needed, so that a call makes only those that it needs. Their `read` is
-- given what one MGET found: of an algorithm whose state is no string, nothing, and it reads by itself.
local algorithms = {
  gcra = false, token_bucket = false, fixed_window = false, sliding_window = false, sliding_log = false,
  concurrency = false,
}
-- What a step needs to know of a policy: its algorithm, whose RULE is the step itself, and the charge.
local function policy(n)
  local at = 7 * n - 4
  local name = ARGV[at]
  if type(algorithms[name]) == 'function' then algorithms[name] = algorithms[name]() end
  return {
    -- What check.lua finds out: a table that is made at its full size need not grow.
    state = false, retry = 0, says = 0,
    algorithm = algorithms[name],
    limit = tonumber(ARGV[at + 1]), period = tonumber(ARGV[at + 2]), extra = tonumber(ARGV[at + 3]),
    cost = tonumber(ARGV[at + 4]),
    receipt = ARGV[at + 5],
    shadow = ARGV[at + 6] == 's',
    ban_after = ARGV[at + 6],
  }
end
