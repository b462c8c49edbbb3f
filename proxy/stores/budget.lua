-- The budget of one scope: what was heard of it, and perhaps a call, in one round trip. Mirrors core/budget.py.
-- KEYS[1]  the calls that count, by since when, microseconds of this server's clock; those under way in the future
-- KEYS[2]  the gate and the limits: at, closed, doubtful, probe, told:<name> "<calls>:<microseconds a call counts>"
-- ARGV[1]  JSON: ended [lease], told [[name, calls, counted, remain or -1]], close or -1, configured [calls, counted]
--          or [], take [lease, hold, share left to others] or []; times in microseconds
-- Returns  granted 1 or 0, wait, closed 1 or 0, share left in millionths, this server's time, then name, calls, counted
local calls, gate, order = KEYS[1], KEYS[2], cjson.decode(ARGV[1])
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])

local function text(number)
  return string.format('%.0f', number)
end

local known = {}
local fields = redis.call('HGETALL', gate)
for i = 1, #fields, 2 do
  known[fields[i]] = fields[i + 1]
end
local closed, doubtful, probe = tonumber(known.closed or '0'), known.doubtful == '1', known.probe or ''

local back = tonumber(known.at or '0') - now
if back > 0 then  -- the clock was set back: what was logged moves with it
  local logged = redis.call('ZRANGE', calls, 0, -1, 'WITHSCORES')
  for i = 1, #logged, 2 do
    redis.call('ZADD', calls, text(tonumber(logged[i + 1]) - back), logged[i])
  end
  closed = closed - back
end

local function count(counted)
  return redis.call('ZCOUNT', calls, '(' .. text(now - counted), '+inf')
end

for _, told in ipairs(order.told) do
  local name, most, counted, remain = told[1], told[2], told[3], told[4]
  known['told:' .. name] = text(most) .. ':' .. text(counted)
  redis.call('HSET', gate, 'told:' .. name, known['told:' .. name])
  if remain >= 0 then
    for foreign = 1, most - remain - count(counted) do
      redis.call('ZADD', calls, text(now), name .. '-' .. text(now) .. '-' .. foreign)
    end
  end
end
if order.close >= 0 then
  closed, doubtful, probe = math.max(closed, now + order.close), true, ''
end
for _, lease in ipairs(order.ended) do
  if redis.call('ZSCORE', calls, lease) then
    redis.call('ZADD', calls, text(now), lease)
  end
  if probe == lease then
    closed, probe = now, ''
  end
end

local allowances, longest, answer = {}, 0, {}
if #order.configured > 0 then
  table.insert(allowances, {most = order.configured[1], counted = order.configured[2]})
end
for field, value in pairs(known) do
  local most, counted = string.match(value, '^(%d+):(%d+)$')
  if most and string.sub(field, 1, 5) == 'told:' then
    table.insert(allowances, {most = tonumber(most), counted = tonumber(counted)})
    table.insert(answer, string.sub(field, 6))
    table.insert(answer, tonumber(most))
    table.insert(answer, tonumber(counted))
  end
end
for _, each in ipairs(allowances) do
  longest = math.max(longest, each.counted)
end
redis.call('ZREMRANGEBYSCORE', calls, '-inf', text(now - longest))

local granted, wait, hold = 0, 0, 0
if #order.take > 0 then
  hold = order.take[2]
  for _, each in ipairs(allowances) do
    local usable = each.most - math.floor(each.most * order.take[3])
    if count(each.counted) >= usable then
      local slot = usable > 0 and redis.call('ZREVRANGE', calls, usable - 1, usable - 1, 'WITHSCORES') or {0, now}
      wait = math.max(wait, tonumber(slot[2]) + each.counted - now)
    end
  end
  if now < closed then
    wait = closed - now
  elseif wait <= 0 then
    granted = 1
    redis.call('ZADD', calls, text(now + hold), order.take[1])
    if doubtful or probe ~= '' then  -- a probe whose end was not told is followed by another
      doubtful, probe, closed = false, order.take[1], now + hold
    end
  end
end

local left = 1
for _, each in ipairs(allowances) do
  left = math.min(left, 1 - count(each.counted) / each.most)
end
redis.call('HSET', gate, 'at', text(now), 'closed', text(closed), 'doubtful', doubtful and '1' or '0', 'probe', probe)
local keep = math.ceil((longest + hold + math.max(0, closed - now)) / 1000) + 60000
redis.call('PEXPIRE', calls, text(keep))
-- What was told is remembered for longer than what was called; anyone can have a scope by making up a token.
local heard = #answer > 0 or doubtful or probe ~= ''
redis.call('PEXPIRE', gate, text(heard and keep + 3600000 or keep))
local shut = (granted == 0 and now < closed) and 1 or 0
return {granted, math.ceil(wait), shut, math.floor(math.max(0, left) * 1000000), math.floor(now), unpack(answer)}
