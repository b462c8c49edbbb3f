-- The spans that follow a marker without a gap, in one round trip.
-- KEYS[1]  the listing's index: image id -> "<position behind the image>:<marker its span starts after>"
-- ARGV     prefix of the listing's spans; the marker; how many images are wanted; how many spans at the most; 1 where
--          spans may be joined, 0 where one has to hold all
-- Returns  rows asked for with the span that holds the marker, 0 for none; then position, start marker, span; ...
-- Mirrors MemoryStore._piece and core.listing.chain; codec.py lays out the span. A foreign value is no span.
local index, prefix, marker = KEYS[1], ARGV[1], ARGV[2]
local wanted, hops = tonumber(ARGV[3]), tonumber(ARGV[4])
local least = ARGV[5] == '0' and wanted or 0
local chain = {0}

local function span(after)
  local value = redis.pcall('GET', prefix .. after)
  if type(value) ~= 'string' or string.sub(value, 1, 4) ~= 'IMS2' or #value < 80 then
    return nil
  end
  local fetched_at, count = tonumber(string.sub(value, 21, 35)), tonumber(string.sub(value, 36, 43))
  local asked, length = tonumber(string.sub(value, 44, 51)), tonumber(string.sub(value, 68, 72))
  if not (fetched_at and count and asked and length) then
    return nil
  end
  return {
    after = after, value = value, position = 0, ends = length == 99999, fetched_at = fetched_at, count = count,
    asked = asked, marker = string.sub(value, 73, 72 + length % 99999),
  }
end

local function holding(id)
  local home = redis.pcall('HGET', index, id)
  if type(home) ~= 'string' then
    return nil
  end
  local position, after = string.match(home, '^(%d+):(.*)$')
  local found = position and tonumber(position) > 0 and span(after)
  if found then
    found.position = tonumber(position)
  end
  return found or nil
end

local function enough(piece)
  return piece.ends or piece.count - piece.position >= least
end

local function rather(one, other)
  if enough(one) ~= enough(other) then
    return enough(one)
  end
  return one.fetched_at > other.fetched_at
end

for hop = 1, hops do
  local found, home = span(marker), holding(marker)
  if home and hop == 1 then
    chain[1] = home.asked
  end
  if home and home.position <= home.count and (home.position < home.count or home.ends or home.marker ~= marker)
      and (not found or rather(home, found)) then
    found = home
  end
  if not found or (found.count == found.position and not found.ends and found.marker == marker) then
    break
  end
  table.insert(chain, found.position)
  table.insert(chain, found.after)
  table.insert(chain, found.value)
  wanted = wanted - (found.count - found.position)
  if found.ends or wanted <= 0 then
    break
  end
  marker = found.marker
end
return chain
