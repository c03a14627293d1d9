-- The exact token bucket. STATE: a string `<units owed>:<at µs>`. RULE: limit = burst, period = units
-- of a token, extra = units that leak in a µs. Mirrors token_bucket.rs.
algorithms.token_bucket = function()
  local function ceil_div(a, b) return math.floor((a + b - 1) / b) end
  return {
    read = function(_, rule, now, stored)
      local capacity, owed = rule.limit * rule.period, 0
      if stored then
        local units, at = stored:match('^(%d+):(%d+)$')
        units, at = tonumber(units), tonumber(at)
        if at > now then
          owed = units + math.min(at - now, ceil_div(capacity, rule.extra)) * rule.extra
        else
          local leaked = math.min(now - at, ceil_div(units, rule.extra))
          owed = math.max(units - leaked * rule.extra, 0)
        end
      end
      return { owed = math.min(owed, capacity), healed = owed > capacity }
    end,

    retry = function(state, rule, _, cost)
      if cost > rule.limit then return -1 end
      local over = state.owed + cost * rule.period - rule.limit * rule.period
      return ceil_div(math.max(over, 0), rule.extra)
    end,

    take = function(state, rule, now, cost)
      local after = state.owed + math.min(cost, rule.limit) * rule.period
      state.owed = math.min(after, rule.limit * rule.period)
      return now
    end,

    give = function(state, rule, now, cost, receipt)
      local taken = math.min(cost, rule.limit) * rule.period
      local elapsed = math.max(now - tonumber(receipt), 0)
      local leaked = math.min(elapsed, ceil_div(taken, rule.extra)) * rule.extra
      state.owed = math.max(state.owed - math.max(taken - leaked, 0), 0)
    end,

    write = function(key, state, rule, now)
      put(key, int(state.owed) .. ':' .. int(now), ceil_div(state.owed, rule.extra))
    end,

    view = function(state, rule)
      local left = rule.limit * rule.period - state.owed
      return math.floor(left / rule.period), ceil_div(state.owed, rule.extra)
    end,
  }
end
