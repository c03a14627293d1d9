-- The sliding window counter. STATE: a string `<start ms>:<current>:<previous>`. RULE: limit, period
-- ms. Mirrors sliding_window.rs.
algorithms.sliding_window = function()
  local function lives(state, rule, now)
    local periods = (state.current > 0 and 2) or (state.previous > 0 and 1) or 0
    return periods > 0 and (state.start + periods * rule.period) * 1000 - now or 0
  end

  return {
    read = function(_, rule, now, stored)
      local ms, period = math.floor(now / 1000), rule.period
      local state = { start = ms, current = 0, previous = 0 }
      if stored then
        local start, current, previous = stored:match('^(%d+):(%d+):(%d+)$')
        start = tonumber(start)
        current = math.min(tonumber(current), rule.limit)
        previous = math.min(tonumber(previous), rule.limit)
        state.healed = start > ms + period
        if state.healed then start = ms end
        if ms < start + period then
          state.start, state.current, state.previous = start, current, previous
        elseif ms < start + 2 * period and current > 0 then
          state.start, state.previous = start + period, current
        end
      end
      state.passed = math.max(ms - state.start, 0)
      return state
    end,

    retry = function(state, rule, now, cost)
      local limit, period, current = rule.limit, rule.period, state.current
      if cost > limit then return -1 end
      local taken = state.previous * (period - state.passed) + (current + cost) * period
      if taken <= limit * period then return 0 end
      local into
      if current + cost <= limit then
        into = period - math.floor((limit - current - cost) * period / state.previous)
      else
        into = 2 * period - math.min(math.floor((limit - cost) * period / current), period)
      end
      return (state.start + into) * 1000 - now
    end,

    take = function(state, rule, _, cost)
      state.current = math.min(state.current + cost, rule.limit)
      return state.start
    end,

    give = function(state, rule, _, cost, receipt)
      receipt = tonumber(receipt)
      if state.start == receipt then
        state.current = math.max(state.current - cost, 0)
      elseif state.start == receipt + rule.period then
        state.previous = math.max(state.previous - cost, 0)
      end
    end,

    write = function(key, state, rule, now)
      local counts = int(state.current) .. ':' .. int(state.previous)
      put(key, int(state.start) .. ':' .. counts, lives(state, rule, now))
    end,

    view = function(state, rule, now)
      local weighted = state.previous * (rule.period - state.passed)
      local taken = state.current + math.floor((weighted + rule.period - 1) / rule.period)
      return math.max(rule.limit - taken, 0), lives(state, rule, now)
    end,
  }
end
