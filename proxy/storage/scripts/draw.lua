-- The generations of scopes: one is drawn for a scope that has none, and each lives on for a while, used or not.
-- KEYS     the generations, one a scope; until when every listing is unsettled
-- ARGV     milliseconds that they live at the least; for each scope a generation that never was
-- Returns  the values of KEYS
for i = 1, #KEYS - 1 do
  redis.call('SET', KEYS[i], ARGV[i + 1], 'NX', 'PX', ARGV[1])
  local left = redis.call('PTTL', KEYS[i])
  if left >= 0 and left < tonumber(ARGV[1]) then
    redis.call('PEXPIRE', KEYS[i], ARGV[1])
  end
end
return redis.call('MGET', unpack(KEYS))
