-- Ends a session for whoever proves it, or for its user. Mirrors policy::may_destroy.
-- KEYS[1] session
-- ARGV 1 presented .v|'' (none)   2 the user who ends it|'' (none)
-- RETURNS {1, user} | {0} nothing that the caller may destroy
local meta = read('.v', '.u')
local proves = ARGV[1] ~= '' and meta['.v'] == ARGV[1]
local owns = ARGV[2] ~= '' and meta['.v'] and meta['.u'] == ARGV[2]
if not proves and not owns then return {0} end
redis.call('UNLINK', key)
return {1, meta['.u'] or ''}
