-- What spans and the index look like; it stands before the scripts that read them. Mirrors codec.py and homes.py.

-- Returns what the span *name* says of itself in the clear, nil where that is no span.
local function head(name)
  local value = redis.pcall('GETRANGE', name, 0, 511)
  if type(value) ~= 'string' or string.sub(value, 1, 4) ~= 'IMS3' or #value < 105 then
    return nil
  end
  local fetched_at, fresh_until = tonumber(string.sub(value, 21, 35)), tonumber(string.sub(value, 36, 50))
  local count, asked = tonumber(string.sub(value, 51, 58)), tonumber(string.sub(value, 59, 66))
  local fence, length = tonumber(string.sub(value, 67, 82)), tonumber(string.sub(value, 93, 97))
  if not (fetched_at and fresh_until and count and asked and fence and length) then
    return nil
  end
  local marker = length % 99999
  if #value < 97 + marker then
    value = redis.call('GETRANGE', name, 0, 96 + marker)
  end
  return {
    fetched_at = fetched_at, fresh_until = fresh_until, count = count, asked = asked, fence = fence,
    generation = string.sub(value, 83, 92), ends = length == 99999, marker = string.sub(value, 98, 97 + marker),
  }
end

-- Returns how many rows of a window *span* can fill behind its image number *position*.
local function reach(span, position)
  return span.ends and math.huge or span.count - position
end

-- Returns where an image stands, by the entries in *text*: a list of {after, span, position}, the one put last first.
-- An entry is the position behind the image, when the span was fetched, and the marker it starts after with its length.
-- *span_after* gives what `head` does. What has been replaced, or is none of ours, is left out.
local function homes(text, span_after)
  local found, at = {}, 1
  while type(text) == 'string' and #found < 2 do
    local _, upto, position, fetched_at, length = string.find(text, '^(%d+):(%d+):(%d+):', at)
    if not upto then
      break
    end
    at = upto + 1 + tonumber(length)
    local after = string.sub(text, upto + 1, at - 1)
    local span = span_after(after)
    position = tonumber(position)
    if span and span.fetched_at == tonumber(fetched_at) and position > 0 and position <= span.count then
      table.insert(found, {after = after, span = span, position = position})
    end
  end
  return found
end

