"""The script by which the store counts what keys have used: atomic, and harmless if repeated."""

from __future__ import annotations

from typing import Final

SCRIPT: Final = """
local report = cjson.decode(ARGV[1])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local today = math.floor(now / 86400000)
local fields = {'answers', 'failed', 'input_tokens', 'output_tokens'}
local windows = {per_minute = 60000, per_day = 86400000}
redis.call('HSETNX', KEYS[1], 'epoch', report.instance .. ':' .. now)
redis.call('HSETNX', KEYS[1], 'since', now)
local epoch = redis.call('HGET', KEYS[1], 'epoch')
local version = tonumber(redis.call('HGET', KEYS[1], 'version') or 0)
local after = 0
if report.epoch == epoch and report.version <= version then after = report.version end

local function current(row)
  for _, field in ipairs(fields) do row[field] = row[field] or 0 end
  if row.day ~= today then
    row.day = today
    for _, field in ipairs(fields) do row['today_' .. field] = 0 end
  end
  for window in pairs(windows) do
    if (row[window .. '_ends'] or 0) <= now then
      row[window .. '_ends'] = 0
      row[window .. '_used'] = 0
    end
  end
  return row
end
local function get(name)
  local row = redis.call('HGET', KEYS[2], name)
  return current(row and cjson.decode(row) or {})
end
local function put(name, row)
  version = version + 1
  redis.call('HSET', KEYS[2], name, cjson.encode(row))
  redis.call('ZADD', KEYS[3], version, name)
end

for name, known in pairs(report.known) do
  local row = get(name)
  for field, value in pairs(current(known)) do row[field] = math.max(row[field], value) end
  put(name, row)
end
if report.since > 0 and report.since < tonumber(redis.call('HGET', KEYS[1], 'since')) then
  redis.call('HSET', KEYS[1], 'since', report.since)
end
if report.number > tonumber(redis.call('GET', KEYS[4]) or 0) then
  for name, added in pairs(report.added) do
    local row = get(name)
    for _, field in ipairs(fields) do
      row[field] = row[field] + added[field]
      row['today_' .. field] = row['today_' .. field] + added[field]
    end
    local tokens = added.input_tokens + added.output_tokens
    for window, length in pairs(windows) do
      if tokens > 0 and row[window .. '_used'] == 0 then row[window .. '_ends'] = now + length end
      row[window .. '_used'] = row[window .. '_used'] + tokens
    end
    put(name, row)
  end
  redis.call('SET', KEYS[4], report.number, 'EX', 3600)
end
redis.call('HSET', KEYS[1], 'version', version)

local reply = {epoch, version, redis.call('HGET', KEYS[1], 'since'), tostring(now)}
for _, name in ipairs(redis.call('ZRANGEBYSCORE', KEYS[3], '(' .. after, '+inf')) do
  reply[#reply + 1] = name
  reply[#reply + 1] = redis.call('HGET', KEYS[2], name)
end
return reply
"""
"""Adds what answers have used, puts back what the store has lost, and returns what has changed.

Keys: the state (epoch, version, since), a row for each key, names by the version in which they
changed, and the number of the last addition of this process. Windows begin with the first tokens in
them; times are milliseconds of the store's clock.
"""
