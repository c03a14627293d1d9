-- What the scripts on a session share; prepended to each of them. Mirrors policy.rs.
local key = KEYS[1]

-- Fields of the crate's own, by name; nil where there is none.
local function read(...)
  local values, meta = redis.call('HMGET', key, ...), {}
  for n = 1, #values do meta[select(n, ...)] = values[n] or nil end
  return meta
end

-- The reply to a proof that does not hold, or nil. The one before the last rotation is known for 60 s.
-- Hashes are compared, so what the time of it tells is no help in finding the verifier.
local function refusal(meta, proof, now)
  if meta['.v'] == proof then return nil end
  local recent = meta['.v'] and meta['.p'] == proof and now - meta['.r'] < 60000
  return {recent and -4 or 0}
end

-- How long a session lives from now; not more than 0 if it does not.
local function ttl_of(idle, deadline, now)
  return deadline > 0 and math.min(idle, deadline - now) or idle
end

-- Its fields and bytes, as changes would leave them. HLEN counts the crate's own fields among them,
-- those of other versions too, which are told apart only where it matters.
local fields, bytes, dotted = 0, 0, false
local function weigh(meta)
  fields, bytes, dotted = redis.call('HLEN', key), tonumber(meta['.b'] or 0), true
end
local function replace(field, was, new)
  if was then fields, bytes = fields - 1, bytes - #field - #was end
  if new then fields, bytes = fields + 1, bytes + #field + #new end
end
local function over(max_fields, max_bytes)
  if fields > tonumber(max_fields) and dotted then
    for _, name in ipairs(redis.call('HKEYS', key)) do
      if name:sub(1, 1) == '.' then fields = fields - 1 end
    end
  end
  if fields > tonumber(max_fields) then return {-1, 'fields'} end
  if bytes > tonumber(max_bytes) then return {-1, 'bytes'} end
end

-- The user in whose list it is to be noted again, as often as reads slide it by default; else ''.
local function to_note(meta, idle, now)
  local user = meta['.u'] or ''
  if user == '' or now - (meta['.s'] or 0) < math.min(math.floor(idle / 20), 60000) then return '' end
  redis.call('HSET', key, '.s', int(now))
  return user
end
