-- Concurrency leases. STATE: a ZSET of ids by when they end, in µs. RULE: limit, period = lease µs.
-- The receipt is the id, in place of which 1 is returned: an id has more digits than a number. Mirrors concurrency.rs.
algorithms.concurrency = function()
  return {
    read = function(key, rule, now)
      local id = rule.receipt
      local state = { id = id, live = redis.call('ZCOUNT', key, '(' .. int(now), '+inf') }
      state.last = state.live > 0 and tonumber(redis.call('ZRANGE', key, -1, -1, 'WITHSCORES')[2]) or now
      local ends = tonumber(redis.call('ZSCORE', key, id) or now)
      state.held = ends > now
      local most = now + rule.period
      state.healed = state.last > most
      state.last, state.key = math.min(state.last, most), key
      return state
    end,

    retry = function(state, rule, now)
      if state.held or state.live < rule.limit then return 0 end
      local skip = state.live - rule.limit
      local first = redis.call('ZRANGEBYSCORE', state.key, '(' .. int(now), '+inf', 'WITHSCORES', 'LIMIT', skip, 1)
      return math.min(tonumber(first[2]) - now, rule.period)
    end,

    take = function(state, rule, now)
      if state.held or state.live < rule.limit then
        state.ends, state.last = now + rule.period, now + rule.period
        if not state.held then state.live = state.live + 1 end
      end
      return 1
    end,

    renew = function(state, rule, now)
      if state.held then state.ends, state.last = now + rule.period, now + rule.period end
      return state.held
    end,

    give = function(state)
      if redis.call('ZREM', state.key, state.id) > 0 then state.reread = true end
    end,

    write = function(key, state, rule, now)
      if state.healed then
        local most = int(now + rule.period)
        for _, id in ipairs(redis.call('ZRANGEBYSCORE', key, '(' .. most, '+inf')) do
          redis.call('ZADD', key, most, id)
        end
      end
      if state.ends then
        redis.call('ZREMRANGEBYSCORE', key, '-inf', int(now))
        redis.call('ZADD', key, int(state.ends), state.id)
      end
      if state.live == 0 then redis.call('DEL', key)
      else redis.call('PEXPIRE', key, ttl_ms(state.last - now)) end
    end,

    view = function(state, rule, now)
      return math.max(rule.limit - state.live, 0), state.live > 0 and state.last - now or 0
    end,
  }
end
