-- GCRA. STATE: a string, the TAT in µs. RULE: limit = burst, period = emission interval µs.
-- Mirrors gcra.rs.
algorithms.gcra = function()
  return {
    read = function(_, rule, now, stored)
      local most, tat = now + rule.limit * rule.period, tonumber(stored or now)
      if tat > most then return { tat = most, most = most, healed = true } end
      return { tat = tat > now and tat or now, most = most }
    end,

    retry = function(state, rule, now, cost)
      if cost > rule.limit then return -1 end
      local over = state.tat + cost * rule.period - state.most
      return over > 0 and over or 0
    end,

    take = function(state, rule, now, cost)
      state.tat = math.min(state.tat + math.min(cost, rule.limit) * rule.period, state.most)
      return now
    end,

    give = function(state, rule, now, cost, receipt)
      local back = math.min(cost, rule.limit) * rule.period
      back = math.max(back - math.max(now - tonumber(receipt), 0), 0)
      state.tat = math.max(state.tat - back, now)
    end,

    write = function(key, state, _, now) put(key, int(state.tat), state.tat - now) end,

    view = function(state, rule, now)
      return math.floor((state.most - state.tat) / rule.period), state.tat - now
    end,
  }
end
