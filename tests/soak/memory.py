"""Memory as a budget, under load: what is held stays below it, and is given back.

The server is a process of its own with a budget of 32 MiB. What it says that it holds is read from
``/metrics`` all the while, and what it takes from /proc.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import random
import re
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Final

import attrs

from tests.clients import http, question
from tests.soak.attacks import ATTACKS, LARGE, Visit
from tests.soak.figures import Report
from tests.soak.processes import MIB, Gateway, Server

BUDGET: Final = 32
"""MiB. A quarter of it is one address's."""
OVER: Final = 1.1
"""The part of the budget that may ever be held."""
OVERHEAD: Final = 2.0
"""MiB of resident memory for each that may be held: what is freed is given back now and then only,
and what is read of a client is there as text and as objects for a moment."""
AFTERWARDS: Final = 1.15
"""The part of what it was that resident memory may be when all are gone."""
AT_ONCE: Final = 60
TOKENS: Final = 11_000
"""Of an answer: 3 MB."""
ADDRESSES: Final = 40
TRIMMED: Final = 6.0
"""Seconds after which what is free has been given back."""
RETURN_SECONDS: Final = 40.0
"""For all to be gone, what is kept too (5 s, looked for each 5 s), and a trim (each 5 s)."""
SETTINGS: Final = {
    "STREAMING_MEMORY_BUDGET_MB": str(BUDGET),
    "STREAMING_CHAT_RETENTION_SECONDS": "5",
    "STREAMING_RESUME_GRACE": "2",
    "STREAMING_STALL_TIMEOUT": "5",
    "STREAMING_MAX_CONNECTIONS_PER_IP": "0",
    "STREAMING_CONNECTIONS_PER_MINUTE": "0",
}
Work = Callable[[], Coroutine[None, None, None]]
_HELD: Final = re.compile(r'^streaming_memory_held_bytes\{kind="(\w+)"\} (\S+)$', re.MULTILINE)


@attrs.define
class Seen:
    """The most that was seen, in MiB.

    Attributes:
        held: for clients, in all.
        kinds: the same, by kind.
        resident: of the process.
        looks: how often it was looked.
    """

    held: float = 0.0
    kinds: dict[str, float] = attrs.field(factory=dict)
    resident: float = 0.0
    looks: int = 0


async def held(url: str) -> dict[str, float]:
    """What is held for clients now, in MiB by kind."""
    async with http(url, timeout=30) as client:
        text = (await client.get("/metrics")).text
    return {kind: float(size) / MIB for kind, size in _HELD.findall(text)}


@asynccontextmanager
async def watching(server: Server) -> AsyncIterator[Seen]:
    """Look all the while."""
    seen = Seen()

    async def look() -> None:
        while True:
            now = await held(server.url)
            seen.looks += 1
            seen.held = max(seen.held, sum(now.values()))
            for kind, size in now.items():
                seen.kinds[kind] = max(seen.kinds.get(kind, 0.0), size)
            seen.resident = max(seen.resident, server.resident())
            await asyncio.sleep(0.1)

    looking = asyncio.ensure_future(look())
    try:
        yield seen
    finally:
        looking.cancel()
        with suppress(asyncio.CancelledError):
            await looking


async def visits(planned: Iterator[Work], at_once: int) -> int:
    """Make visits, so many at a time, until none is left; how many it were."""
    made = 0

    async def one_after_the_other() -> None:
        nonlocal made
        for visit in planned:
            with suppress(OSError, AssertionError, TimeoutError):
                await visit()
            made += 1

    await asyncio.gather(*(one_after_the_other() for _ in range(at_once)))
    return made


def hostile(url: str, rounds: int, seconds: float) -> Iterator[Work]:
    """Every attack in turn, as large as it may be, each from the next address."""
    chance = random.Random(1)
    for number in range(rounds):
        for place, attack in enumerate(ATTACKS):
            visit = Visit(url, _address(number * len(ATTACKS) + place), chance, seconds)
            yield partial(attack, visit)


def mixed(url: str, count: int, seed: int) -> Iterator[Work]:
    """Any attack, of any size, from anywhere."""
    chance = random.Random(seed)
    for _ in range(count):
        visit = Visit(
            url,
            _address(chance.randrange(ADDRESSES)),
            chance,
            chance.uniform(0.1, 3.0),
            int(1_000_000 ** chance.random()),
        )
        yield partial(chance.choice(ATTACKS), visit)


def lasting(seconds: float, planned: Iterator[Work]) -> Iterator[Work]:
    """What is planned, for so long from the first on."""
    end = time.monotonic() + seconds
    yield from itertools.takewhile(lambda _: time.monotonic() < end, planned)


def _address(number: int) -> str:
    return f"127.0.0.{2 + number % ADDRESSES}"


async def is_whole(url: str) -> bool:
    """Whether somebody who keeps to the rules gets an answer of 3 MB, whole."""
    async with http(url, timeout=60) as client:
        reply = await client.post("/v1/chat/completions", json=question(LARGE, stream=True))
    return reply.status_code == 200 and f"t{TOKENS - 1} " in reply.text and "[DONE]" in reply.text


async def settled(server: Server, most: float) -> float:
    """Resident memory when it is below a figure, or after a while."""
    deadline = time.monotonic() + RETURN_SECONDS
    while time.monotonic() < deadline:
        if not sum((await held(server.url)).values()) and server.resident() < most:
            break
        await asyncio.sleep(0.5)
    return server.resident()


async def load(
    server: Server, report: Report, name: str, planned: Iterator[Work], *, at_once: int
) -> None:
    """Let a load loose on a server that nobody else uses, and judge what it held and gave back.

    Args:
        server: with `SETTINGS`; it has served each kind of visit before.
        report: told what was seen.
        name: of the load.
        planned: the visits.
        at_once: how many of them at a time.
    """
    await settled(server, math.inf)
    await asyncio.sleep(TRIMMED)
    before = server.resident()
    begun = time.monotonic()
    async with watching(server) as seen:
        made = await visits(planned, at_once)
        seconds = time.monotonic() - begun
        whole = await is_whole(server.url)
    kinds = ", ".join(f"{kind} {size:.1f}" for kind, size in seen.kinds.items())
    report.say(f"{name}: {made:,} visits, {at_once} at a time, {seconds:.0f} s, {seen.looks} looks")
    report.say(f"  MiB held at most: {kinds}")
    report.promise(
        f"held: {seen.held:.1f} MiB of {BUDGET}, at most {OVER:g} times that",
        seen.held <= OVER * BUDGET,
    )
    most = before + OVERHEAD * BUDGET
    report.promise(
        f"resident: {before:.0f} MiB before, then at most {seen.resident:.0f} of {most:.0f}",
        seen.resident <= most,
    )
    report.promise("an answer of 3 MB is whole, right behind it", whole)
    after = await settled(server, AFTERWARDS * before)
    left = sum((await held(server.url)).values())
    report.promise(f"held afterwards: {left:.1f} MiB", left < 0.1)
    report.promise(
        f"resident afterwards: {after:.0f} MiB of {AFTERWARDS * before:.0f}",
        after <= AFTERWARDS * before,
    )


async def warmed_up(server: Server) -> None:
    """Each kind of visit, as many at once as there will be.

    What a server needs that has served is no growth: what was parsed at one moment leaves some MiB
    of CPython's arenas behind, once, in which something small is still in use.
    """
    await visits(hostile(server.url, rounds=12, seconds=0.5), at_once=AT_ONCE)


async def memory(folder: Path, report: Report, seconds: float = 60.0) -> None:
    """The long form: a random load and a hostile one, each for so long."""
    async with (
        Gateway(folder, rate=0, tokens=TOKENS) as gateway,
        Server(folder, gateway.url, SETTINGS, "memory") as server,
    ):
        fresh = server.resident()
        await warmed_up(server)
        report.say(f"resident: {fresh:.0f} MiB when it had just started")
        for name, planned in (
            ("random load", mixed(server.url, 1_000_000, seed=1)),
            ("hostile load", hostile(server.url, 1_000_000, seconds=3.0)),
        ):
            await load(server, report, name, lasting(seconds, planned), at_once=AT_ONCE)
