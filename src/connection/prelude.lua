-- Prepended to every script of this crate. Local functions only: Redis forbids globals.
-- A number leaves Lua as text: tostring(1760000000000123) would be "1.7600000000001e+15".
local function int(n) return string.format('%.0f', n) end
-- The server's clock in microseconds; `override` replaces it in tests and is '' otherwise.
local function now_us(override)
  if override ~= '' then return tonumber(override) end
  local time = redis.call('TIME')
  return time[1] * 1000000 + time[2]
end
-- The same in milliseconds, where `override` is in milliseconds too.
local function now_ms(override)
  if override ~= '' then return tonumber(override) end
  return math.floor(now_us('') / 1000)
end
