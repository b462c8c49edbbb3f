-- Keeps one span, and where each of its images stands.
-- KEYS[1]  the span; KEYS[2] the listing's index
-- ARGV     the value; its fence; milliseconds to keep it; the marker it starts after; entries the index may have; ids
-- Returns  1, or 0 where the span that is there was fetched under a later claim
local there = redis.pcall('GETRANGE', KEYS[1], 0, 66)
if type(there) == 'string' and string.sub(there, 1, 4) == 'IMS2' then
  local fence = tonumber(string.sub(there, 52, 67))
  if fence and fence > tonumber(ARGV[2]) then
    return 0
  end
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[3])
local entries = redis.pcall('HLEN', KEYS[2])
if type(entries) ~= 'number' or entries > tonumber(ARGV[5]) then
  redis.call('DEL', KEYS[2])  -- foreign, or full of images that are long gone: the spans fill it again
end
for i = 6, #ARGV do
  redis.call('HSET', KEYS[2], ARGV[i], (i - 5) .. ':' .. ARGV[4])
end
if #ARGV >= 6 and redis.call('PTTL', KEYS[2]) < tonumber(ARGV[3]) then
  redis.call('PEXPIRE', KEYS[2], ARGV[3])
end
return 1
