-- Keeps one span, and where each of its images stands.
-- KEYS[1]  the span; KEYS[2] the listing's index; KEYS[3] its count of claims
-- ARGV     the value; its fence; milliseconds to keep it; the marker it starts after; entries the index may have; the
--          time, milliseconds since the epoch; milliseconds that the count lives at the least; ids
-- Returns  1, or 0 where the span that is there was fetched under a later claim
-- Of the spans that hold an image two are known: see homes.py.
local name, index, after, now = KEYS[1], KEYS[2], ARGV[4], tonumber(ARGV[6])
local prefix = string.sub(name, 1, #name - #after)
local first, together = 8, 500  -- where the ids begin, and how many of them are looked up and written at a time
local there = head(name)
if there and there.fence > tonumber(ARGV[2]) then
  return 0
end
redis.call('SET', name, ARGV[1], 'PX', ARGV[3])
local fence = tonumber(ARGV[2])
if fence > 0 then
  -- The count outlives what was put under it. Should it have been evicted, the next claim is a later one all the same.
  if fence > (tonumber(redis.pcall('GET', KEYS[3])) or 0) then
    redis.call('SET', KEYS[3], ARGV[2], 'KEEPTTL')
  end
  if redis.call('PTTL', KEYS[3]) < tonumber(ARGV[7]) then
    redis.call('PEXPIRE', KEYS[3], ARGV[7])
  end
end
local entries = redis.pcall('HLEN', index)
if type(entries) ~= 'number' or entries > tonumber(ARGV[5]) then
  redis.call('DEL', index)  -- foreign, or full of images that are long gone: the spans fill it again
end
local new = head(name)
local others = {[after] = false}

-- Returns the span after another marker, if it is of use for as long as the new one.
local function equal(marker)
  if others[marker] == nil then
    local span = head(prefix .. marker)
    others[marker] = span and span.fresh_until > now and span.generation == new.generation and span or false
  end
  return others[marker]
end

local rest = string.format(':%.0f:%d:', new.fetched_at, #after) .. after

-- Returns what is to stand for the image at *position*, where *text* stood. This is done for each image: no tables.
local function entered(text, position)
  local farthest, most, at = '', reach(new, position), 1
  while type(text) == 'string' do
    local _, upto, place, fetched_at, length = string.find(text, '^(%d+):(%d+):(%d+):', at)
    if not upto then
      break
    end
    local stop = upto + length
    local span = equal(string.sub(text, upto + 1, stop))
    place = tonumber(place)
    if span and place > 0 and place <= span.count and reach(span, place) > most
        and span.fetched_at == tonumber(fetched_at) then
      farthest, most = string.sub(text, at, stop), reach(span, place)
    end
    at = stop + 1
  end
  return position .. rest .. farthest
end

for from = first, #ARGV, together do
  local ids, words = {unpack(ARGV, from, math.min(from + together - 1, #ARGV))}, {}
  for offset, text in ipairs(redis.call('HMGET', index, unpack(ids))) do
    table.insert(words, ids[offset])
    table.insert(words, entered(text, from - first + offset))
  end
  redis.call('HSET', index, unpack(words))
end
if #ARGV >= first and redis.call('PTTL', index) < tonumber(ARGV[3]) then
  redis.call('PEXPIRE', index, ARGV[3])
end
return 1
