-- Words after `--`: the differing header's name, or `-` for requests that are all the same. `done` prints one line of JSON.
function init(args)
  if args[1] ~= "-" then
    local head = wrk.format("GET", wrk.path, wrk.headers)
    head = string.sub(head, 1, #head - 2) .. args[1] .. ": "
    local number = 0
    request = function()
      number = number + 1
      return head .. number .. "-" .. args[2] .. "\r\n\r\n"
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
