-- Words after `--`: the differing field's name, or `-` for heads that are all the same; what its values end with; the
-- mean of the pause before a request, milliseconds, 0 for none; how many listings are asked for in turn, 0 for the one
-- in the URL; the number of the first of them, and how far the next is.
-- `done` prints one line of JSON.
function init(args)
  local field, tag, pause, many = args[1], args[2], tonumber(args[3]), tonumber(args[4])
  local at, step = tonumber(args[5]), tonumber(args[6])
  local names = {}
  for name in pairs(wrk.headers) do
    names[#names + 1] = name
  end
  table.sort(names) -- as they come, another run may have them in another order, and that is another head
  local head = "GET " .. wrk.path .. " HTTP/1.1\r\n"
  for _, name in ipairs(names) do
    head = head .. name .. ": " .. wrk.headers[name] .. "\r\n"
  end
  if many > 0 then
    local first, rest = string.match(head, "^(GET %S+)(.*)$")
    request = function()
      at = (at + step) % many
      return first .. "&name=stored-" .. at .. rest .. "\r\n"
    end
  elseif field ~= "-" then
    local number = 0
    request = function()
      number = number + 1
      return head .. field .. ": " .. number .. "-" .. tag .. "\r\n\r\n"
    end
  end
  if pause > 0 then
    math.randomseed(os.time())
    delay = function()
      return math.floor(0.5 - pause * math.log(1 - math.random()))
    end
  end
end

function done(summary, latency)
  local e = summary.errors
  io.write(string.format(
    '\n{"requests":%d,"seconds":%.6f,"bytes":%d,"errors":%d,"p50_ms":%.4f,"p99_ms":%.4f}\n',
    summary.requests, summary.duration / 1e6, summary.bytes, e.connect + e.read + e.write + e.status + e.timeout,
    latency:percentile(50) / 1000, latency:percentile(99) / 1000))
end
