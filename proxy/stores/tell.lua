-- Tells all replicas a message.
-- KEYS[1]  the replicas that may trust their memory, by when they are no longer counted
-- ARGV     the channel; the message
-- Returns  how many listen, in a cluster to this node; the names of those that are counted
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', redis.call('TIME')[1])
local listening = redis.call('PUBLISH', ARGV[1], ARGV[2])
return {listening, redis.call('ZRANGE', KEYS[1], 0, -1)}
