-- Ends a session for whoever proves it, or for its user. Mirrors policy::may_destroy.
-- KEYS[1] session
-- ARGV 1 presented .v   2 the user that the request loaded|''
-- RETURNS {1, user} | {0} nothing that the caller may destroy
local meta = redis.call('HMGET', KEYS[1], '.v', '.u')
local proves = meta[1] == ARGV[1]
local owns = meta[1] and ARGV[2] ~= '' and meta[2] == ARGV[2]
if not proves and not owns then return {0} end
redis.call('UNLINK', KEYS[1])
return {1, meta[2] or ''}
