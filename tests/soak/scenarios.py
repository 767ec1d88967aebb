"""Scenarios: what is done to a server and its visitors, in any size, and what came of it.

The integration tests run them small, the soak large. Each returns figures; its caller judges.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final

import aiohttp
import attrs

from tests.bench import clients
from tests.fakes.fault_proxy import FaultProxy, Faults
from tests.soak.processes import Server
from tests.soak.visitors import Count, Face, Reader, Visitor, Watcher, nobody

FACES: Final[tuple[Face, Face]] = ("websocket", "sse")
AT_ONCE: Final = 100
_STARTED: Final = "2026-01-01T00:00:00Z"


class Publisher:
    """Sends numbered alerts to the webhook: each fires while the one before it is resolved.

    Attributes:
        number: of the last one.
    """

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self.url = url
        self.number = 0
        self._session = session

    async def publish(self) -> None:
        """The next one.

        Raises:
            aiohttp.ClientError: the server did not take it.
        """
        self.number += 1
        alerts = [self._alert(self.number, "firing")]
        if self.number > 1:
            alerts.append(self._alert(self.number - 1, "resolved"))
        await self._post(alerts)

    async def finish(self) -> None:
        """Resolve the last one, so that another publisher can begin at 1."""
        if self.number:
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                await self._post([self._alert(self.number, "resolved")])

    async def _post(self, alerts: list[dict[str, object]]) -> None:
        body = {"version": "4", "alerts": alerts}
        async with self._session.post(f"{self.url}/streaming/alerts", json=body) as reply:
            reply.raise_for_status()

    def _alert(self, number: int, status: str) -> dict[str, object]:
        return {
            "status": status,
            "labels": {"alertname": "Soak", "number": str(number)},
            "annotations": {"sent": str(time.monotonic_ns())},
            "startsAt": _STARTED,
            "endsAt": "2026-01-01T00:00:01Z" if status == "resolved" else "0001-01-01T00:00:00Z",
        }

    async def keep(self, interval: float) -> None:
        """Publish again and again, until cancelled; what cannot be sent is sent again."""
        while True:
            try:
                await self.publish()
            except (aiohttp.ClientError, TimeoutError):
                self.number -= 1  # the same number again: the server knows it or does not
            await asyncio.sleep(interval)


@asynccontextmanager
async def publishing(url: str, interval: float | None = None) -> AsyncIterator[Publisher]:
    """A publisher, which publishes by itself if there is an interval."""
    timeout = aiohttp.ClientTimeout(total=10)
    async with aiohttp.ClientSession(timeout=timeout, trust_env=False) as session:
        publisher = Publisher(session, url)
        async with running([publisher.keep(interval)] if interval else []):
            yield publisher
        await publisher.finish()


@asynccontextmanager
async def running(work: Sequence[object]) -> AsyncIterator[list[asyncio.Task[None]]]:
    """Coroutines as tasks that are cancelled in the end."""
    tasks = [asyncio.ensure_future(one) for one in work]  # type: ignore[call-overload]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        for fault in ended:
            if isinstance(fault, Exception):
                raise fault


async def eventually(condition: Callable[[], object], seconds: float, what: str) -> None:
    """Wait until it holds.

    Raises:
        TimeoutError: says what did not happen.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds:g} s: {what}")
        await asyncio.sleep(0.02)


def watchers(url: str, websockets: int, event_streams: int, count: Count) -> list[Watcher]:
    """So many of each."""
    return [
        Watcher(url, face, count)
        for face, many in zip(FACES, (websockets, event_streams), strict=True)
        for _ in range(many)
    ]


# Cuts


@attrs.frozen
class Cut:
    """What came of cutting.

    Attributes:
        cuts: made.
        visits: connections opened.
        lost, doubled: messages of answers, and alerts.
        gaps: notices of what is no longer retained, by reason.
        broken: request_ids of answers that did not arrive whole, up to ``stop``.
    """

    cuts: int
    visits: int
    lost: int
    doubled: int
    gaps: dict[str, int]
    broken: list[str]


async def cut_and_resume(
    url: str, *, cuts: int, text: str, answers: int, seconds: float, seed: int = 1
) -> Cut:
    """Cut answers and topics at random places, over both faces, until it was so many times."""
    count = Count()

    def choose(chance: random.Random) -> Faults:
        if proxy.cuts + proxy.open > cuts + 2 * len(watching) + len(readers):
            return Faults()
        return Faults(
            cut_after=chance.randrange(1, 3_000),
            cut=chance.choice(("rst", "fin")),
            slices=chance.choice((0, 0, 700)),
            latency=chance.choice((0.0, 0.0, 0.002)),
        )

    async with FaultProxy(url, choose, seed) as proxy, publishing(url, 0.05) as publisher:
        numbers = itertools.count()
        readers: list[Reader] = []
        watching = watchers(proxy.url, 10, 10, count)

        async def read() -> None:
            while proxy.cuts < cuts or not readers:
                number = next(numbers)
                reader = Reader(proxy.url, FACES[number % 2], f"cut-{seed}-{number}")
                readers.append(reader)
                await reader.stay()

        async with running([watcher.stay() for watcher in watching]):
            async with asyncio.timeout(seconds):
                await asyncio.gather(*(read() for _ in range(answers)))
            proxy.faults = Faults()
            last = publisher.number + 2
            await eventually(
                lambda: all(watcher.last >= last for watcher in watching),
                20,
                f"every watcher sees alert {last}; they are at {[w.last for w in watching]}",
            )
    everybody: list[Visitor] = [*readers, *watching]
    return Cut(
        cuts=proxy.cuts,
        visits=sum(visitor.visits for visitor in everybody),
        lost=count.lost + sum(reader.lost for reader in readers),
        doubled=count.doubled + sum(reader.doubled for reader in readers),
        gaps=count.gaps,
        broken=[
            f"{reader.request_id}: {reader.finish_reason} {reader.reasons} {len(reader.text)}"
            for reader in readers
            if reader.finish_reason != "stop" or reader.text != text
        ],
    )


# Everybody at once


@attrs.frozen
class Storm:
    """What came of cutting everybody at once.

    Attributes:
        visitors: who were connected.
        cut: whose connections were reset.
        seconds: until the last of them was connected again.
        caught_up: until the last of them had seen what was published meanwhile.
        lost, doubled, gaps: alerts.
    """

    visitors: int
    cut: int
    seconds: float
    caught_up: float
    lost: int
    doubled: int
    gaps: dict[str, int]


async def reconnect_all(
    url: str, websockets: int, event_streams: int, *, seconds: float = 30.0
) -> Storm:
    """Reset every connection in the same moment, while alerts go on; all come back at once."""
    count = Count()
    async with FaultProxy(url) as proxy, publishing(url, 0.1) as publisher:
        everybody = watchers(proxy.url, websockets, event_streams, count)
        async with running([watcher.stay() for watcher in everybody]):
            await eventually(lambda: all(w.last for w in everybody), seconds, "all are there")
            cut = proxy.reset_all()
            begun = time.monotonic()
            await eventually(
                lambda: all(watcher.visits == 2 for watcher in everybody),
                seconds,
                "everybody is connected again",
            )
            back = time.monotonic() - begun
            number = publisher.number
            await eventually(
                lambda: all(watcher.last >= number for watcher in everybody),
                seconds,
                "everybody has caught up",
            )
            caught_up = time.monotonic() - begun
    return Storm(len(everybody), cut, back, caught_up, count.lost, count.doubled, count.gaps)


# kill -9


@attrs.frozen
class Killed:
    """What visitors were told after a kill.

    Attributes:
        readers: what each reader of an answer was told, in its order.
        watchers: what each watcher was told.
    """

    readers: list[list[str]]
    watchers: list[list[str]]

    def problems(self) -> list[str]:
        """Visitors who were not told, or told something else."""
        gone = (["stream_not_found"], ["404"])
        sentences = [f"a reader was told {one}" for one in self.readers if one not in gone]
        return sentences + [
            f"a watcher was told {one}" for one in self.watchers if one != ["epoch"]
        ]


async def kill_under_load(server: Server, round_: int, *, readers: int, viewers: int) -> Killed:
    """Kill the server while answers run, start it again, and ask everybody what they know."""
    count = Count()
    reading = [
        Reader(server.url, FACES[number % 2], f"kill-{round_}-{number}")
        for number in range(readers)
    ]
    watching = watchers(server.url, viewers - viewers // 2, viewers // 2, count)
    everybody: list[Visitor] = [*reading, *watching]
    async with running([visitor.stay() for visitor in everybody]):
        async with publishing(server.url, 0.1):
            await eventually(
                lambda: (
                    all(reader.sequence > 3 for reader in reading)
                    and all(watcher.cursor for watcher in watching)
                ),
                30,
                "every answer runs and every viewer watches",
            )
            await server.kill()
        await server.start()
        await eventually(
            lambda: all(r.done for r in reading) and all(w.reasons for w in watching),
            30,
            f"everybody is notified: {[visitor for visitor in reading if not visitor.done]}",
        )
    return Killed([reader.reasons for reader in reading], [watcher.reasons for watcher in watching])


# Connect and abort


async def connect_and_abort(url: str, cycles: int, seed: int = 1) -> None:
    """Open connections of every kind and drop them at random moments, answers running."""
    chance = random.Random(seed)
    count = Count()
    places = asyncio.Semaphore(AT_ONCE)

    async def one(number: int) -> None:
        face = FACES[number % 2]
        visitor: Visitor = Watcher(url, face, count)
        if number % 3 == 0:
            visitor = Aborting(url, face, f"abort-{seed}-{number}")
        async with places:
            await _drop(visitor, chance)

    step = 1_000
    for start in range(0, cycles, step):
        await asyncio.gather(*(one(n) for n in range(start, min(start + step, cycles))))


async def _drop(visitor: Visitor, chance: random.Random) -> None:
    when = chance.random()
    if when < 0.1:  # before a byte of the request
        client = await clients.connect(clients.port_of(visitor.url), nobody)
        client.transport.abort()
        return
    opening = asyncio.ensure_future(visitor.open())
    if when < 0.3:  # anywhere in the handshake
        await asyncio.wait([opening], timeout=chance.uniform(0, 0.02))
        opening.cancel()
    with contextlib.suppress(OSError, TimeoutError, asyncio.CancelledError):
        await opening
    if when > 0.8:  # a little later
        await asyncio.sleep(chance.uniform(0, 0.05))
    visitor.leave()


class Aborting(Reader):
    """Wants its answer to end when it leaves."""

    def _start(self) -> dict[str, object]:
        return super()._start() | {"on_disconnect": "cancel"}
