-- Where this server was restarted, or leads in the place of another, makes everything in it count as invalidated:
-- it may have come back with an older snapshot, or be a copy that lacks the last writes.
-- KEYS[1]  the run of the server whose contents are believed; KEYS[2] the generation of everything
-- ARGV     a generation that never was
-- Returns  0 where it is the same run, 1 where none was believed before, 2 where another was
local run = string.match(redis.call('INFO', 'server'), 'run_id:(%w+)') or ''
local believed = redis.call('GET', KEYS[1])
if believed == run then
  return 0
end
redis.call('SET', KEYS[1], run)
redis.call('SET', KEYS[2], ARGV[1])
return believed and 2 or 1
