-- Forgets what is stored: states, or bans. Mirrors memory.rs: reset and unban.
-- KEYS  what is forgotten
redis.call('DEL', unpack(KEYS))
