-- Leave to fetch the span after a marker.
-- KEYS[1]  the claim; KEYS[2] the listing's count of claims; KEYS[3] the span
-- ARGV     milliseconds until the claim expires; milliseconds that the count lives at the least; a claim that has no more
--          milliseconds left was not renewed by its holder, and is taken over
-- Returns  the fence of the new claim, 0 where somebody holds it; whether there is a span
if redis.call('PTTL', KEYS[1]) > tonumber(ARGV[3]) then
  return {0, 0}
end
local fence = redis.call('INCR', KEYS[2])
if redis.call('PTTL', KEYS[2]) < tonumber(ARGV[2]) then
  redis.call('PEXPIRE', KEYS[2], ARGV[2])
end
redis.call('SET', KEYS[1], fence, 'PX', ARGV[1])
return {fence, redis.call('EXISTS', KEYS[3])}
