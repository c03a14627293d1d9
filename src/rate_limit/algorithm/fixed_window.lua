-- The fixed window. STATE: a string `<start µs>:<count>`. RULE: limit, period µs, extra = 1 if windows
-- begin at multiples of the period. Mirrors fixed_window.rs.
algorithms.fixed_window = function()
  return {
    read = function(_, rule, now, stored)
      local fresh = rule.extra == 1 and now - now % rule.period or now
      if stored then
        local start, count = stored:match('^(%d+):(%d+)$')
        start, count = tonumber(start), tonumber(count)
        if now < start + rule.period then
          local far = start > now
          return { start = far and fresh or start, count = math.min(count, rule.limit), healed = far }
        end
      end
      return { start = fresh, count = 0 }
    end,

    retry = function(state, rule, now, cost)
      if cost > rule.limit then return -1 end
      return state.count + cost > rule.limit and state.start + rule.period - now or 0
    end,

    take = function(state, rule, _, cost)
      state.count = math.min(state.count + cost, rule.limit)
      return state.start
    end,

    give = function(state, _, _, cost, receipt)
      if state.start == tonumber(receipt) then state.count = math.max(state.count - cost, 0) end
    end,

    write = function(key, state, rule, now)
      local left = state.count > 0 and state.start + rule.period - now or 0
      put(key, int(state.start) .. ':' .. int(state.count), left)
    end,

    view = function(state, rule, now)
      return rule.limit - state.count, state.count > 0 and state.start + rule.period - now or 0
    end,
  }
end
