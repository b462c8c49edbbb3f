-- The budget of one scope: what was heard of it, and perhaps a call, in one round trip. Mirrors core/budget.py.
-- KEYS[1]  the calls that count, by since when, microseconds of this server's clock; those under way in the future
-- KEYS[2]  the gate and the limits: at, closed, doubtful, probe, told:<name> "<calls>:<microseconds a call counts>"
-- KEYS[3]  the life of the budgets in this server
-- KEYS[4]  the replicas that lately asked, by when
-- ARGV[1]  JSON: replica, its name; ended [lease], told [[name, calls, counted, remain or -1]], close or -1, configured [calls, counted]
--          or [], take [lease, hold, share left to others] or []; calls [[lease, age]] that a replica knows of and this
--          server may not, dropped [lease] that were granted and never made; times in microseconds
-- ARGV[2]  a life that never was; ARGV[3] the one that the replica knows, or '': in another one nothing is done
-- Returns  the life; granted 1 or 0, wait, closed 1 or 0, share left in millionths, this server's time, replicas; then
--          for each limit {name, calls, counted, {count, time, ...}}: so many calls count for at most that time from now
local life = redis.call('GET', KEYS[3])
if not life then
  life = ARGV[2]
  redis.call('SET', KEYS[3], life)
end
if ARGV[3] ~= '' and ARGV[3] ~= life then
  return {life}
end
local calls, gate, order = KEYS[1], KEYS[2], cjson.decode(ARGV[1])
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local MOST_PARTS, SEEN = 10, 30 * 1000000

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

for _, lease in ipairs(order.dropped) do
  redis.call('ZREM', calls, lease)
end
for _, call in ipairs(order.calls) do
  redis.call('ZADD', calls, text(now - call[2]), call[1])
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

local allowances, longest, heard = {}, 0, false
if #order.configured > 0 then
  table.insert(allowances, {name = '', most = order.configured[1], counted = order.configured[2]})
end
for field, value in pairs(known) do
  local most, counted = string.match(value, '^(%d+):(%d+)$')
  if most and string.sub(field, 1, 5) == 'told:' then
    table.insert(allowances, {name = string.sub(field, 6), most = tonumber(most), counted = tonumber(counted)})
    heard = true
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

-- The calls of a limit, oldest first, in few parts of equal size: how many, and for how long the newest one counts.
local function parts(counted, used)
  local before, size, told, first = redis.call('ZCARD', calls) - used, math.ceil(used / MOST_PARTS), {}, 0
  while first < used do
    local last = math.min(used, first + size)
    local newest = redis.call('ZRANGE', calls, before + last - 1, before + last - 1, 'WITHSCORES')
    table.insert(told, last - first)
    table.insert(told, math.ceil(tonumber(newest[2]) + counted - now))
    first = last
  end
  return told
end

local left, limits = 1, {}
for _, each in ipairs(allowances) do
  local used = count(each.counted)
  left = math.min(left, 1 - used / each.most)
  table.insert(limits, {each.name, each.most, each.counted, parts(each.counted, used)})
end
redis.call('HSET', gate, 'at', text(now), 'closed', text(closed), 'doubtful', doubtful and '1' or '0', 'probe', probe)
local keep = math.ceil((longest + hold + math.max(0, closed - now)) / 1000) + 60000
redis.call('PEXPIRE', calls, text(keep))
-- What was told is remembered for longer than what was called; anyone can have a scope by making up a token.
redis.call('PEXPIRE', gate, text((heard or doubtful or probe ~= '') and keep + 3600000 or keep))
local shut = (granted == 0 and now < closed) and 1 or 0
redis.call('ZADD', KEYS[4], text(now), order.replica)
redis.call('ZREMRANGEBYSCORE', KEYS[4], '-inf', text(now - SEEN))
redis.call('PEXPIRE', KEYS[4], 2 * SEEN / 1000)
local said = {life, granted, math.ceil(wait), shut, math.floor(math.max(0, left) * 1000000), math.floor(now)}
table.insert(said, redis.call('ZRANGE', KEYS[4], 0, -1))
for _, each in ipairs(limits) do
  table.insert(said, each)
end
return said
