-- The sliding log. STATE: a LIST of times in µs, the newest first. RULE: limit, period µs. Mirrors
-- sliding_log.rs.
algorithms.sliding_log = function()
  local function push(key, time, count)
    local text = int(time)
    for _ = 1, count do redis.call('LPUSH', key, text) end
  end

  return {
    read = function(key, rule, now)
      local length = redis.call('LLEN', key)
      local newest = length > 0 and tonumber(redis.call('LINDEX', key, 0)) or 0
      local at = math.max(newest, now)
      -- How many count; they are the first.
      local low, high = 0, length
      while low < high do
        local middle = math.floor((low + high) / 2)
        if tonumber(redis.call('LINDEX', key, middle)) + rule.period > at then low = middle + 1
        else high = middle end
      end
      local state = { key = key, live = low, newest = newest, at = at }
      if newest > now + rule.period then
        state.healed, state.newest, state.at = true, now, now
      end
      return state
    end,

    retry = function(state, rule, now, cost)
      if cost > rule.limit then return -1 end
      if state.live + cost <= rule.limit then return 0 end
      if state.healed then return rule.period end
      return tonumber(redis.call('LINDEX', state.key, rule.limit - cost)) + rule.period - now
    end,

    take = function(state, rule, _, cost)
      state.added = math.min(cost, rule.limit)
      state.live = math.min(state.live, rule.limit - state.added) + state.added
      state.newest = state.at
      return state.at
    end,

    give = function(state, _, _, cost, receipt)
      if state.healed then
        local own = tonumber(receipt) == state.at
        state.live = own and math.max(state.live - cost, 0) or state.live
        return
      end
      local removed = redis.call('LREM', state.key, cost, receipt)
      if removed > 0 then state.reread = true end
    end,

    write = function(key, state, rule, now)
      if state.healed then
        redis.call('DEL', key)
        push(key, state.at, state.live)
      elseif state.added then
        push(key, state.at, state.added)
        redis.call('LTRIM', key, 0, state.live - 1)
      end
      if state.live == 0 then redis.call('DEL', key)
      else redis.call('PEXPIRE', key, ttl_ms(state.newest + rule.period - now)) end
    end,

    view = function(state, rule, now)
      local reset = state.live > 0 and state.newest + rule.period - now or 0
      return math.max(rule.limit - state.live, 0), reset
    end,
  }
end
