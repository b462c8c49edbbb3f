-- Gives a claim back (ARGV[2] 0) or holds it for longer (ARGV[2] milliseconds), if it is still ours.
-- KEYS[1]  the claim
-- ARGV     its fence; milliseconds; the channel and the message that wake who waits for it
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
if ARGV[2] ~= '0' then
  return redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
redis.call('DEL', KEYS[1])
redis.pcall('PUBLISH', ARGV[3], ARGV[4])  -- who waits asks again soon, heard or not
return 1
