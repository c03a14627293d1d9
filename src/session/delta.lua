-- The changes that a commit makes to the data; prepended to commit.lua. Mirrors policy::change.
-- Three lists in ARGV, each with the number of its entries before it:
--   sets, (field, value)*   removes, (field, '' or the only value that goes)*   increments, (field, by)*
-- A field is in one of them at most, once; none starts with a dot.
local MAX = 9007199254740991

-- What the lists from `at` on come to; or the reply that refuses them: {-2, field} not an integer.
local function decide(at, clear)
  local delta = {going = {}, sums = {}}
  local function each()
    local first, count = at + 1, tonumber(ARGV[at])
    at = first + 2 * count
    return first, at - 1
  end
  local function old(field) return not clear and redis.call('HGET', key, field) end
  delta.first, delta.last = each()
  for n = delta.first, delta.last, 2 do replace(ARGV[n], old(ARGV[n]), ARGV[n + 1]) end
  if clear then
    for _, name in ipairs(redis.call('HKEYS', key)) do
      if name:sub(1, 1) ~= '.' then delta.going[#delta.going + 1] = name end
    end
  end
  local first, last = each()
  for n = first, last, 2 do
    local was = old(ARGV[n])
    if was and (ARGV[n + 1] == '' or ARGV[n + 1] == was) then
      replace(ARGV[n], was, nil)
      delta.going[#delta.going + 1] = ARGV[n]
    end
  end
  first, last = each()
  for n = first, last, 2 do
    local was, by = old(ARGV[n]), tonumber(ARGV[n + 1])
    local value = tonumber(string.match(was or '0', '^%-?%d+$'))
    if not value or math.max(math.abs(value), math.abs(by), math.abs(value + by)) > MAX then
      return nil, {-2, ARGV[n]}
    end
    local sum = int(value + by)
    delta.sums[#delta.sums + 1] = {field = ARGV[n], text = sum}
    replace(ARGV[n], was, sum)
  end
  delta.grows = delta.first <= delta.last or #delta.sums > 0
  return delta
end

-- Writes them, and returns what the incremented fields hold.
local function write(delta)
  local sums = {}
  for _, name in ipairs(delta.going) do redis.call('HDEL', key, name) end
  for n = delta.first, delta.last, 2 do redis.call('HSET', key, ARGV[n], ARGV[n + 1]) end
  for n, sum in ipairs(delta.sums) do
    redis.call('HSET', key, sum.field, sum.text)
    sums[n] = sum.text
  end
  if delta.grows or #delta.going > 0 then redis.call('HSET', key, '.b', int(bytes)) end
  return sums
end
