-- Enters a replica among those that may trust their memory, which it may for less time than it stands there.
-- KEYS[1]  the replicas, by when they are no longer counted: by this server's clock, so that their own don't matter
-- KEYS[2]  the number of invalidations that were published
-- ARGV     seconds to stand there; the replica's name
-- Returns  that number; the names of all that are counted
local now = redis.call('TIME')[1]
redis.call('ZADD', KEYS[1], now + ARGV[1], ARGV[2])
return {tonumber(redis.call('GET', KEYS[2])) or 0, redis.call('ZRANGEBYSCORE', KEYS[1], now, '+inf')}
