"""What happens to processes and their store, drawn at random: short faults, and those that kill."""

from __future__ import annotations

import asyncio
import math
import random
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

import attrs
from redis.exceptions import RedisError

from tests.fakes.fault_proxy import FaultProxy, Faults
from tests.soak.processes import Server
from tests.stores import RealStore

LEASE: Final = 3
"""Seconds: longer than short faults add up to, and shorter than the default, to kill more often."""
PAUSE: Final = 0.4
"""Seconds between two faults, on average."""
KILLING: Final = 0.03
"""Share of the faults that end answers."""


@attrs.define(eq=False)
class Trouble:
    """Does one thing after the other to a store, and to servers on their ways to it.

    Attributes:
        done: how often each thing was done.
        ends: when a server was killed, hung or was cut off for longer than its lease, in monotonic
            seconds, and when that was over: answers may end `incomplete` for that.
    """

    store: RealStore
    servers: list[Server]
    proxies: list[FaultProxy]
    chance: random.Random
    done: Counter[str] = attrs.field(factory=Counter)
    ends: list[list[float]] = attrs.field(factory=list)

    async def run(self, over: asyncio.Event) -> None:
        """Go on until it is over, and leave everything whole."""
        while not over.is_set():
            kind = self._killing() if self.chance.random() < KILLING else self._passing()
            self.done[kind.__name__] += 1
            with suppress(RedisError, OSError):  # nobody answers a store that has just been killed
                await kind()
            await asyncio.sleep(self.chance.uniform(0, 2 * PAUSE))

    def _passing(self) -> Callable[[], Awaitable[None]]:
        return self.chance.choice(
            (
                self.reset, self.silence, self.lose_replies, self.delay, self.hang_store,
                self.restart_store, self.restart_from_old_data, self.flush, self.evict, self.fill,
                self.drop_streams, self.drop_hints, self.stall_server,
            )
        )  # fmt: skip

    def _killing(self) -> Callable[[], Awaitable[None]]:
        return self.chance.choice((self.kill_server, self.hang_server, self.cut_server_off))

    async def _until_found_out(self) -> None:
        """Wait until answers of a server that is silent have been ended by the others."""
        self.ends.append([time.monotonic(), math.inf])
        await asyncio.sleep(2 * LEASE + 4)

    def _found_out(self) -> None:
        """Note that no answer ends for that any more, once this has been told everywhere."""
        self.ends[-1][1] = time.monotonic() + 2

    def excuses(self, begun: float, ended: float) -> bool:
        """Whether something has ended answers in this time."""
        return any(since <= ended and begun <= until for since, until in self.ends)

    # Connections

    async def reset(self) -> None:
        """Reset connections."""
        self.done["connections reset"] += self.chance.choice(self.proxies).reset_all(0.7)

    async def silence(self) -> None:
        """Pull a cable, for less than a lease."""
        proxy = self.chance.choice(self.proxies)
        proxy.silence_all(0.7)
        await asyncio.sleep(self.chance.uniform(0.1, 0.8))
        proxy.reset_all()

    async def lose_replies(self) -> None:
        """Cut each new connection somewhere, also within a reply."""
        for proxy in self.proxies:
            proxy.faults = lambda chance: Faults(cut_after=chance.randint(1, 5_000))
            self.done["connections reset"] += proxy.reset_all()
        await asyncio.sleep(self.chance.uniform(0.2, 1))
        self._mend()

    async def delay(self) -> None:
        """Let every reply be late, some of them too late."""
        for proxy in self.proxies:
            proxy.faults = Faults(latency=self.chance.uniform(0.05, 0.4))
            proxy.reset_all()
        await asyncio.sleep(self.chance.uniform(0.2, 0.8))
        self._mend()

    def _mend(self) -> None:
        for proxy in self.proxies:
            proxy.faults = Faults()

    # The store

    async def hang_store(self) -> None:
        """Stop the store for a moment."""
        self.store.freeze()
        await asyncio.sleep(self.chance.uniform(0.1, 1.5))
        self.store.thaw()

    async def restart_store(self) -> None:
        """Kill it; it comes back with nothing."""
        (self.store.directory / "dump.rdb").unlink(missing_ok=True)
        await self.store.kill()
        await self.store.start()

    async def restart_from_old_data(self) -> None:
        """Kill it; it comes back with what it had a while ago."""
        await self.store.client.save()
        await asyncio.sleep(self.chance.uniform(0.1, 1))
        await self.store.kill()
        await self.store.start()

    async def flush(self) -> None:
        """Remove everything."""
        await self.store.client.flushall()

    async def evict(self) -> None:
        """Have it evict everything."""
        await self.store.client.config_set("maxmemory-policy", "allkeys-lru")
        await self._full()

    async def fill(self) -> None:
        """Have it refuse every write."""
        await self.store.client.config_set("maxmemory-policy", "noeviction")
        await self._full()

    async def _full(self) -> None:
        await self.store.client.config_set("maxmemory", "1")
        await asyncio.sleep(self.chance.uniform(0.02, 0.3))
        await self.store.client.config_set("maxmemory", "0")

    async def drop_streams(self) -> None:
        """Remove answers that have been acknowledged."""
        for key in await self.store.client.keys("streaming:a:*"):
            if self.chance.random() < 0.5:
                await self.store.client.delete(key)

    async def drop_hints(self) -> None:
        """Trim the inboxes, for a second."""
        for _ in range(20):
            for key in await self.store.client.keys("streaming:x:*"):
                await self.store.client.xtrim(key, maxlen=0, approximate=False)
            await asyncio.sleep(0.05)

    # Servers

    async def stall_server(self) -> None:
        """Stop a server for less than its lease."""
        server = self.chance.choice(self.servers)
        server.signal(signal.SIGSTOP)
        await asyncio.sleep(self.chance.uniform(0.1, 0.9))
        server.signal(signal.SIGCONT)

    async def kill_server(self) -> None:
        """Kill -9; another is started."""
        server = self.chance.choice(self.servers)
        await server.kill()
        starting = asyncio.create_task(self._start(server))
        await self._until_found_out()
        await starting
        self._found_out()

    async def _start(self, server: Server) -> None:
        """Start a server; a machine that is busy gets a second chance."""
        try:
            await server.start()
        except RuntimeError:
            self.done["slow starts"] += 1
            await server.kill()
            await server.start()

    async def hang_server(self) -> None:
        """Stop a server for longer than its lease."""
        server = self.chance.choice(self.servers)
        server.signal(signal.SIGSTOP)
        await self._until_found_out()
        server.signal(signal.SIGCONT)
        self._found_out()

    async def cut_server_off(self) -> None:
        """Cut a server off from the store for longer than its lease."""
        proxy = self.chance.choice(self.proxies)
        proxy.faults = Faults(silent_after=0)
        proxy.silence_all()
        await self._until_found_out()
        self._mend()
        proxy.reset_all()
        self._found_out()
