-- GCRA, an algorithm of check.lua. STATE: a string, the TAT in µs. RULE: burst, interval µs.
-- Mirrors gcra.rs.
algorithms.gcra = {
  -- What a request of `cost` would do, without doing it: Gcra::decide.
  decide = function(key, rule, cost, now)
    local most = now + rule.burst * rule.interval
    local tat = math.max(tonumber(redis.call('GET', key) or now), now)
    local before = math.min(tat, most)
    local after = before + math.min(cost, rule.burst + 1) * rule.interval
    local allowed = after <= most
    local retry = (allowed and 0) or (cost > rule.burst and -1) or after - most
    return { allowed = allowed, before = before, after = after, retry = retry, clamped = tat > most }
  end,

  -- The TAT as if a request of `cost` had not been: its burst is as full as before.
  refund = function(key, rule, cost, now)
    local tat = tonumber(redis.call('GET', key) or now)
    return math.max(tat - cost * rule.interval, now)
  end,

  -- Makes `tat` the state; an empty bucket needs none.
  store = function(key, tat, now)
    if tat <= now then redis.call('DEL', key)
    else redis.call('SET', key, int(tat), 'PX', int(math.ceil((tat - now) / 1000))) end
  end,

  -- remaining, and µs until the bucket is empty: Gcra::remaining.
  view = function(rule, tat, now)
    local left = rule.burst * rule.interval - (tat - now)
    return math.floor(left / rule.interval), tat - now
  end,
}
