-- Tells all replicas a message.
-- KEYS[1]  the replicas that may trust their memory, by when they are no longer counted
-- ARGV     the channel; the message
-- Returns  how many have to acknowledge it. In a cluster only this node's listeners are counted by PUBLISH.
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', redis.call('TIME')[1])
local listening = redis.call('PUBLISH', ARGV[1], ARGV[2])
return math.max(listening, redis.call('ZCARD', KEYS[1]))
