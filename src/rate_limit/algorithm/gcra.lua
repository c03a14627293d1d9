-- GCRA. STATE: a string, the TAT in µs. RULE: limit = burst, period = emission interval µs.
-- Mirrors gcra.rs.
algorithms.gcra = function()
  local function most(rule, now) return now + rule.limit * rule.period end
  return {
    read = function(key, rule, now)
      local tat = math.max(tonumber(redis.call('GET', key) or now), now)
      return { tat = math.min(tat, most(rule, now)), healed = tat > most(rule, now) }
    end,

    retry = function(state, rule, now, cost)
      if cost > rule.limit then return -1 end
      return math.max(state.tat + cost * rule.period - most(rule, now), 0)
    end,

    take = function(state, rule, now, cost)
      local after = state.tat + math.min(cost, rule.limit) * rule.period
      state.tat = math.min(after, most(rule, now))
      return now
    end,

    give = function(state, rule, now, cost, receipt)
      local back = math.min(cost, rule.limit) * rule.period
      back = math.max(back - math.max(now - tonumber(receipt), 0), 0)
      state.tat = math.max(state.tat - back, now)
    end,

    write = function(key, state, _, now) put(key, int(state.tat), state.tat - now) end,

    view = function(state, rule, now)
      return math.floor((most(rule, now) - state.tat) / rule.period), state.tat - now
    end,
  }
end
