-- The spans that follow a marker without a gap, in one round trip.
-- KEYS[1]  the listing's index: image id -> "<position behind the image>:<marker its span starts after>"
-- ARGV     prefix of the listing's spans; the marker; how many images are wanted; how many spans at the most
-- Returns  a flat list: position, marker the span starts after, span; ...
-- Mirrors MemoryStore._piece and core.listing.chain. The span's fields are laid out in codec.py.
local index, prefix, marker = KEYS[1], ARGV[1], ARGV[2]
local wanted, hops = tonumber(ARGV[3]), tonumber(ARGV[4])
local chain = {}

local function span(after)
  local value = redis.pcall('GET', prefix .. after)
  if type(value) ~= 'string' or #value < 34 or string.sub(value, 1, 4) ~= 'IMS\1' then
    return nil
  end
  local fetched_at, count, length = struct.unpack('>dI4I2', string.sub(value, 21, 34))
  local ends = length == 65535
  return {
    after = after, value = value, fetched_at = fetched_at, count = count, position = 0,
    ends = ends, marker = not ends and string.sub(value, 35, 34 + length) or nil,
  }
end

for _ = 1, hops do
  local found = span(marker)
  local home = redis.pcall('HGET', index, marker)
  if type(home) == 'string' then
    local colon = string.find(home, ':', 1, true)
    local holding = span(string.sub(home, colon + 1))
    local position = tonumber(string.sub(home, 1, colon - 1))
    if holding and position <= holding.count and (position < holding.count or holding.marker ~= marker)
        and (not found or holding.fetched_at > found.fetched_at) then
      holding.position = position
      found = holding
    end
  end
  if not found or (found.count == found.position and found.marker == marker) then
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
