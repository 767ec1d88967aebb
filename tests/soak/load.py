"""The load of a soak: everybody connected through a proxy that never leaves them in peace."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from contextlib import AsyncExitStack, suppress
from typing import Final

import attrs

from tests.fakes.fault_proxy import FaultProxy, Faults
from tests.soak.figures import Sample
from tests.soak.processes import Server
from tests.soak.scenarios import FACES, Publisher, eventually, publishing, running, watchers
from tests.soak.visitors import Count, Reader, Watcher

WEBSOCKETS: Final = 1_000
EVENT_STREAMS: Final = 500
CONTROL: Final = 60
ANSWERS: Final = 40
INTERVAL: Final = 0.5
"""Seconds between two alerts, each of which goes to everybody."""
TURN: Final = 10.0
"""Seconds between two faults that hit many."""
STORM_EVERY: Final = 6
"""Turns between two in which everybody is cut at once."""


@attrs.define
class Answers:
    """What became of the answers.

    Attributes:
        by_reason: how many, by finish_reason or what their reader was told.
        lost, doubled: messages.
        dishonest: answers whose text is not what their end says.
    """

    by_reason: dict[str, int] = attrs.field(factory=dict)
    lost: int = 0
    doubled: int = 0
    dishonest: list[str] = attrs.field(factory=list)

    def take(self, reader: Reader, text: str) -> None:
        """Judge one answer: whole if it says ``stop``, and always a beginning of the text."""
        reason = reader.finish_reason or "/".join(reader.reasons) or "left"
        self.by_reason[reason] = self.by_reason.get(reason, 0) + 1
        self.lost += reader.lost
        self.doubled += reader.doubled
        whole = reader.text == text
        if (reader.finish_reason == "stop" and not whole) or not text.startswith(reader.text):
            self.dishonest.append(f"{reader.request_id}: {reason}, {len(reader.text)} characters")


@attrs.define
class Load:
    """What a load was, and what came of it.

    Attributes:
        watched: what everybody behind the proxy saw.
        control: what those beside the proxy saw, whom no fault may touch.
        answers: all of them.
        samples: of the server, one a second.
        cuts, silenced, storms: what the proxy between clients and server did.
        upstream_cuts: what the one between the server and its gateway did.
        visits: connections opened.
        behind: watchers that had not seen the last alert in the end.
    """

    watched: Count = attrs.field(factory=Count)
    control: Count = attrs.field(factory=Count)
    answers: Answers = attrs.field(factory=Answers)
    samples: list[Sample] = attrs.field(factory=list)
    cuts: int = 0
    silenced: int = 0
    storms: int = 0
    upstream_cuts: int = 0
    visits: int = 0
    behind: int = 0


def draw(chance: random.Random) -> Faults:
    """What one connection of a client suffers: most of them little, a few much."""
    return Faults(
        latency=chance.choice((0.0, 0.0, 0.0, 0.02, 0.1)),
        bandwidth=chance.choice((None, None, None, 20_000.0)),
        slices=chance.choice((0, 0, 0, 500)),
        slow_close=chance.choice((0.0, 0.0, 1.0)),
        cut_after=chance.choice((None, None, chance.randrange(1, 200_000))),
        cut=chance.choice(("rst", "fin")),
    )


async def load(
    server: Server, upstream: FaultProxy, text: str, seconds: float, *, share: int = 1
) -> Load:
    """Keep everybody busy for so many seconds; `share` divides their number (short runs)."""
    done = Load()
    async with AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(FaultProxy(server.url, draw))
        publisher = await stack.enter_async_context(publishing(server.url, INTERVAL))
        behind = watchers(proxy.url, WEBSOCKETS // share, EVENT_STREAMS // share, done.watched)
        control = [
            Watcher(server.url, face, done.control, "metrics,alerts", timed=True)
            for face in FACES
            for _ in range(max(1, CONTROL // share // 2))
        ]
        everybody = [*behind, *control]
        numbers = itertools.count()
        begun = time.monotonic()
        ending = asyncio.Event()

        async def read_on() -> None:
            while not ending.is_set():
                number = next(numbers)
                reader = Reader(proxy.url, FACES[number % 2], f"soak-{number}")
                await reader.stay()
                done.visits += reader.visits
                done.answers.take(reader, text)

        async def sample_on() -> None:
            while True:
                when = time.monotonic() - begun
                done.samples.append(Sample(when, server.memory(), server.descriptors()))
                await asyncio.sleep(1)

        staying = [watcher.stay() for watcher in everybody]
        work = [sample_on(), _faults(proxy, upstream, done)]
        readers = max(2, ANSWERS // share)
        async with running(staying), running([read_on() for _ in range(readers)]) as reading:
            async with running(work):
                await asyncio.sleep(seconds)
            proxy.faults = Faults()
            proxy.reset_all()
            ending.set()
            await asyncio.wait(reading, timeout=60)
            done.behind = await _late(publisher, everybody)
        done.cuts, done.silenced = proxy.cuts, proxy.silenced
        done.upstream_cuts = upstream.cuts
        done.visits += sum(watcher.visits for watcher in everybody)
    return done


async def _faults(proxy: FaultProxy, upstream: FaultProxy, done: Load) -> None:
    for turn in itertools.count(1):
        await asyncio.sleep(TURN)
        upstream.reset_all(0.1)
        if turn % STORM_EVERY == 0:
            proxy.reset_all()
            done.storms += 1
        else:
            proxy.reset_all(0.02)
            proxy.silence_all(0.005)


async def _late(publisher: Publisher, everybody: list[Watcher]) -> int:
    """How many do not see the alerts of now, given time enough."""
    number = publisher.number + 1
    with suppress(TimeoutError):
        await eventually(
            lambda: all(watcher.last >= number for watcher in everybody), 60, "all caught up"
        )
    return sum(watcher.last < number for watcher in everybody)
