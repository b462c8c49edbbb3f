-- What was kept under scopes: their generations live as long as it does, and it counts among their listings.
-- KEYS     for each scope its generation, then its listings by when they expire
-- ARGV     the listing; when it expires and what time it is, seconds since the epoch; milliseconds to hold all that for
local function held(name, least)
  local left = redis.call('PTTL', name)
  if left >= least and left < tonumber(ARGV[4]) then
    redis.call('PEXPIRE', name, ARGV[4])
  end
end

for i = 1, #KEYS, 2 do
  held(KEYS[i], 0)  -- one that never expires says that this server was restarted, see run.lua
  redis.pcall('ZADD', KEYS[i + 1], ARGV[2], ARGV[1])
  redis.pcall('ZREMRANGEBYSCORE', KEYS[i + 1], '-inf', ARGV[3])
  held(KEYS[i + 1], -1)
end
return 1
