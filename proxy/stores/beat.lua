-- Enters a replica among those that may trust their memory, which it may for less time than it stands there.
-- KEYS[1]  the replicas, by when they are no longer counted: by this server's clock, so that their own don't matter
-- ARGV     seconds to stand there; the replica's name
-- Returns  the names of all that are counted
local now = redis.call('TIME')[1]
redis.call('ZADD', KEYS[1], now + ARGV[1], ARGV[2])
return redis.call('ZRANGEBYSCORE', KEYS[1], now, '+inf')
