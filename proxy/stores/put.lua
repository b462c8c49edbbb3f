-- Keeps one span, and where each of its images stands.
-- KEYS[1]  the span; KEYS[2] the listing's index
-- ARGV     the value; milliseconds to keep it; the marker it starts after; entries the index may have; its image ids
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
local entries = redis.pcall('HLEN', KEYS[2])
if type(entries) ~= 'number' or entries > tonumber(ARGV[4]) then
  redis.call('UNLINK', KEYS[2])  -- foreign, or full of images that are long gone: the spans fill it again
end
for i = 5, #ARGV do
  redis.call('HSET', KEYS[2], ARGV[i], (i - 4) .. ':' .. ARGV[3])
end
if #ARGV >= 5 and redis.call('PTTL', KEYS[2]) < tonumber(ARGV[2]) then
  redis.call('PEXPIRE', KEYS[2], ARGV[2])
end
return 1
