"""The scripts by which the store decides on claims: each is atomic."""

from __future__ import annotations

from typing import Final

COUNT: Final = """
local now = tonumber(redis.call('TIME')[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - 1)
if redis.call('ZSCORE', KEYS[1], ARGV[2]) == false
   and redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[1]) then return 0 end
redis.call('ZADD', KEYS[1], now + tonumber(ARGV[3]), ARGV[2])
redis.call('EXPIRE', KEYS[1], 3600)
return 1
"""
TAKE: Final = """
local holder = redis.call('HGET', KEYS[1], 'instance')
if holder and (holder ~= ARGV[1] or redis.call('HEXISTS', KEYS[1], 'v') == 1) then return 0 end
redis.call('HSET', KEYS[1], 'instance', ARGV[1], 'claim', ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[3])
redis.call('DEL', KEYS[2])
return 1
"""
DISOWN: Final = """
if redis.call('HGET', KEYS[1], 'instance') ~= ARGV[1] then return 0 end
if redis.call('HEXISTS', KEYS[1], 'v') == 1 then return 0 end
return redis.call('DEL', KEYS[1])
"""
RENEW: Final = """
local now = tonumber(redis.call('TIME')[1])
return redis.call('ZADD', KEYS[1], 'XX', now + tonumber(ARGV[2]), ARGV[1])
"""
RELEASE: Final = """
if redis.call('HGET', KEYS[1], 'claim') == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
"""
