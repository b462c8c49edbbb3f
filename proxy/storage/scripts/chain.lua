-- The spans that follow a marker without a gap, in one round trip.
-- KEYS[1]  the listing's index: image id -> where it stands, at most two entries
-- ARGV     prefix of the listing's spans; the marker; how many images are wanted; how many spans at the most; 1 where
--          spans may be joined, 0 where one has to hold all
-- Returns  rows asked for with the span that holds the marker, 0 for none; then position, start marker, span; ...
-- Mirrors MemoryStore._piece and core.listing.chain. A foreign value is no span.
local index, prefix, marker = KEYS[1], ARGV[1], ARGV[2]
local wanted, hops = tonumber(ARGV[3]), tonumber(ARGV[4])
local least = ARGV[5] == '0' and wanted or 0
local chain = {0}

local function span_after(after)
  return head(prefix .. after)
end

local function rather(one, other)
  local enough, others = reach(one.span, one.position) >= least, reach(other.span, other.position) >= least
  if enough ~= others then
    return enough
  end
  return one.span.fetched_at > other.span.fetched_at
end

for hop = 1, hops do
  local starting = span_after(marker)
  local found = starting and {after = marker, span = starting, position = 0}
  local holding = homes(redis.pcall('HGET', index, marker), span_after)
  if hop == 1 and holding[1] then
    chain[1] = holding[1].span.asked
  end
  for _, home in ipairs(holding) do
    local leads = home.position < home.span.count or home.span.ends or home.span.marker ~= marker
    if leads and (not found or rather(home, found)) then
      found = home
    end
  end
  local span = found and found.span
  if not span or (span.count == found.position and not span.ends and span.marker == marker) then
    break
  end
  table.insert(chain, found.position)
  table.insert(chain, found.after)
  table.insert(chain, redis.call('GET', prefix .. found.after))
  wanted = wanted - (span.count - found.position)
  if span.ends or wanted <= 0 then
    break
  end
  marker = span.marker
end
return chain
