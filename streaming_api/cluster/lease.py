"""Lease: which process makes the topics, agreed on in one round trip a second.

In the same round trip each process says how it is (`streaming_api.topics.processes`), reads what
the others say, and learns which epoch is valid. An epoch belongs to one run of the store: it ends
when the store restarts, whatever that still has.
"""

from __future__ import annotations

import time
from typing import Final

import attrs

from streaming_api.cluster.connection import Message, mapping, run_of, unrefused
from streaming_api.cluster.topic_store import TopicStore
from streaming_api.topics.processes import Report

_HOLD: Final = """
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""
_RELEASE: Final = """
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
"""
_REPORT_SECONDS: Final = 3_600


@attrs.frozen
class Standing:
    """What a process gets in return.

    Attributes:
        holds: whether it makes the topics.
        epoch: the epoch that is valid; None if there is none.
        before: the one that was valid in another run of the store, or this one.
        run: the store's run.
    """

    holds: bool
    epoch: str | None
    before: str | None
    run: str


class Lease:
    """This process' part in it.

    Args:
        instance: the name of this process, new at each start.
        seconds: how long a process that is silent still holds the lease.

    Attributes:
        reports: what the other processes say about themselves.
    """

    def __init__(self, store: TopicStore, instance: str, seconds: float) -> None:
        self.reports: list[Report] = []
        self._store = store
        self._instance = instance.encode()
        self._seconds = seconds
        self._until = 0.0
        self._heard: dict[bytes, tuple[bytes, float]] = {}

    @property
    def held(self) -> bool:
        """Whether no other process can hold it, whatever has happened since it was renewed."""
        return time.monotonic() < self._until

    async def renew(self, report: bytes, *, wanted: bool) -> Standing:
        """Say how this process is, and take or keep the lease if it is free, or give it up.

        Raises:
            StoreError: the store cannot be asked, or refuses.
        """
        begun = time.monotonic()
        hold = ("EVAL", _HOLD, 1, self._store.lease, self._instance, round(self._seconds * 1000))
        release = ("EVAL", _RELEASE, 1, self._store.lease, self._instance)
        replies = await self._store.along(
            hold if wanted else release,
            ("GET", self._store.epoch),
            ("INFO", "server"),
            ("HSET", self._store.reports, self._instance, report),
            ("EXPIRE", self._store.reports, _REPORT_SECONDS),
            ("HGETALL", self._store.reports),
        )
        held, record, info, _, _, reports = unrefused(replies)
        holds = wanted and held == 1
        self._until = begun + self._seconds if holds else 0.0
        self._hear(mapping(reports))
        before, _, run = (record or b"").decode().partition(" ")
        now = run_of(info)
        valid = before if before and run == now else None
        return Standing(holds, valid, before or None, now)

    async def forget_dead(self) -> None:
        """Remove the reports of processes that have been silent for longer than the lease."""
        dead = [name for name in self._heard if not self._alive(name)]
        if dead:
            await self._store.ask(("HDEL", self._store.reports, *dead))

    async def leave(self) -> None:
        """Give the lease up, and say no more about this process."""
        self._until = 0.0
        await self._store.ask(
            ("EVAL", _RELEASE, 1, self._store.lease, self._instance),
            ("HDEL", self._store.reports, self._instance),
        )

    def _hear(self, reports: Message) -> None:
        now = time.monotonic()
        for name, text in reports.items():
            if self._heard.get(name, (b"", now))[0] != text:
                self._heard[name] = (text, now)
        for name in self._heard.keys() - reports.keys():
            del self._heard[name]
        self.reports = [
            Report.decode(text)
            for name, (text, _) in self._heard.items()
            if name != self._instance and self._alive(name)
        ]

    def _alive(self, name: bytes) -> bool:
        return time.monotonic() - self._heard[name][1] <= self._seconds
