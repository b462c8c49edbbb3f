-- Tells all replicas a message, numbered so that whoever missed one notices.
-- KEYS[1]  the replicas that may trust their memory, by when they are no longer counted; KEYS[2] the number of messages
-- ARGV     the channel; what the message begins with; the rest of it; its number stands between the two
-- Returns  how many listen, in a cluster to this node, -1 where publishing is refused; the names of those that are counted
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', redis.call('TIME')[1])
local number = redis.call('INCR', KEYS[2])
local listening = redis.pcall('PUBLISH', ARGV[1], ARGV[2] .. number .. ':' .. ARGV[3])
return {type(listening) == 'number' and listening or -1, redis.call('ZRANGE', KEYS[1], 0, -1)}
