"""`python -m tests.soak.cluster`: three servers over one store, under every fault it can have.

Answers run on any of three servers, and are followed from one to another by clients that are cut
at random. Meanwhile the store is reset, delayed, hung, restarted, flushed, filled and evicts, and
servers are stalled, killed, hung and cut off (`tests.soak.store_faults`). The oracle is what the
upstream is known to have said: every number once, in order, its text and nothing else.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path
from typing import ClassVar, Final

import aiohttp
import uvloop

from tests.bench.processes import raise_descriptor_limit
from tests.clients import content
from tests.fakes.fault_proxy import FaultProxy
from tests.fakes.upstream import FakeUpstream, Script
from tests.machines import Visitor
from tests.soak.figures import Report, percentile
from tests.soak.processes import Server
from tests.soak.store_faults import LEASE, Trouble
from tests.stores import real_store

SERVERS: Final = 3
AT_ONCE: Final = 60
TOKENS: Final = 40
TEXT: Final = Script(tokens=TOKENS).text()
LEAVES: Final = 1 / 8
"""Chance that a client's connection is cut after a message."""
PATIENCE: Final = 45.0
"""Seconds after which an answer that has not ended is a promise broken."""
SETTLE: Final = 10.0
"""Seconds without faults in the end."""


class Follower(Visitor):
    """A client that is cut again and again, and takes no for an answer only if it lasts."""

    patience: ClassVar = Visitor.patience | {404: 5.0, 410: 0.0}

    def __init__(
        self, session: aiohttp.ClientSession, urls: list[str], request_id: str, seed: int
    ) -> None:
        super().__init__(session, urls, request_id)
        self.cuts = 0
        self._chance = random.Random(seed)

    def leaves(self) -> bool:
        """Whether its connection is cut now."""
        cut = self._chance.random() < LEAVES
        self.cuts += cut
        return cut


class Tally:
    """What all clients have seen."""

    def __init__(self) -> None:
        self.ends: Counter[str] = Counter()
        self.refusals: Counter[int] = Counter()
        self.cuts = 0
        self.gaps = 0
        self.wrong: list[str] = []
        self.unexcused: list[str] = []
        self.seconds: list[float] = []

    def take(self, one: Follower, begun: float, trouble: Trouble) -> None:
        """Compare what a client has seen with what the upstream has said."""
        now = time.monotonic()
        self.cuts += one.cuts
        self.gaps += len(one.gaps)
        self.refusals += one.refusals
        numbers = [message["sequence_id"] for message in one.seen]
        text = content(one.seen)
        if numbers != list(range(1, len(numbers) + 1)) or not TEXT.startswith(text):
            self.wrong.append(f"{one.request_id}: {numbers} {text!r} {one.gaps}")
        end = str(one.seen[-1]["data"].get("finish_reason")) if one.done else "gone"
        if end == "stop" and text != TEXT:
            self.wrong.append(f"{one.request_id}: stop after {text!r}")
        self.ends[end] += 1
        if end != "stop" and not trouble.excuses(begun, now):
            last = one.seen[-1]["data"] if one.seen else None
            self.unexcused.append(f"{one.request_id}: {end} at {one.last}, {last}")
        self.seconds.append(now - begun)


async def soak(answers: int, minutes: float, seed: int, report: Report) -> None:
    """Run so many answers, or for so long."""
    chance = random.Random(seed)
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="soak-")))
        store = await enter(real_store(port=True))
        upstream = await enter(FakeUpstream())
        upstream.keeps_records = False
        upstream.scripts["paced"] = Script(tokens=TOKENS, rate=30)
        target = f"http://127.0.0.1:{store.port}"
        proxies = [await enter(FaultProxy(target, seed=seed + n)) for n in range(SERVERS)]
        servers = [
            await enter(Server(folder, upstream.url, _environment(proxy), name=f"server-{number}"))
            for number, proxy in enumerate(proxies)
        ]
        trouble = Trouble(store, servers, proxies, chance)
        session = await enter(
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), trust_env=False)
        )
        tally = Tally()
        await asyncio.sleep(LEASE)
        begun = time.monotonic()
        await _answers(session, servers, trouble, tally, answers, begun + minutes * 60, seed)
        _say(report, tally, trouble, upstream.started, time.monotonic() - begun)
        failed = [
            line
            for server in servers
            for line in server.log.read_text().splitlines()
            if "background work failed" in line or "Traceback" in line
        ]
        report.promise(f"no work of a server has failed ({failed[:2] or 'none'})", not failed)


def _environment(proxy: FaultProxy) -> dict[str, str]:
    return {
        "STREAMING_CLUSTER": proxy.url.replace("http", "redis"),
        "STREAMING_CLUSTER_LEASE": str(LEASE),
        "STREAMING_CHAT_RETENTION_SECONDS": "60",  # longer than the store is ever out of reach
        "STREAMING_MAX_CONNECTIONS_PER_IP": "2000",
    }


async def _answers(
    session: aiohttp.ClientSession,
    servers: list[Server],
    trouble: Trouble,
    tally: Tally,
    answers: int,
    until: float,
    seed: int,
) -> None:
    """Keep so many answers running, and trouble beside them."""
    over = asyncio.Event()
    numbers = iter(range(answers))

    async def follow() -> None:
        for number in numbers:
            if time.monotonic() > until:
                return
            urls = [server.url for server in servers]
            random.Random(seed + number).shuffle(urls)
            one = Follower(session, urls, f"a-{number}", seed + number)
            begun = time.monotonic()
            try:
                async with asyncio.timeout(PATIENCE):
                    await one.watch("paced")
            except TimeoutError:
                pass
            tally.take(one, begun, trouble)

    troubling = asyncio.create_task(trouble.run(over))
    await asyncio.gather(*(follow() for _ in range(AT_ONCE)))
    over.set()
    await troubling


def _say(report: Report, tally: Tally, trouble: Trouble, started: int, seconds: float) -> None:
    asked = sum(tally.ends.values())
    done = {name: count for name, count in sorted(trouble.done.items()) if " " not in name}
    other = sum(done.values()) + trouble.done["connections reset"]
    report.say(
        f"{asked:,} answers of {TOKENS} tokens on {SERVERS} servers in {seconds / 60:.1f} minutes, "
        f"{AT_ONCE} at once"
    )
    report.say(f"  {tally.cuts + other:,} faults: {tally.cuts:,} cuts of clients, {other:,} others")
    report.say(f"  {', '.join(f'{name} {count}' for name, count in done.items())}")
    report.say(f"  ends: {dict(tally.ends)}; refused for a while: {dict(tally.refusals)}")
    p50, p99 = (percentile(tally.seconds, share) for share in (0.5, 0.99))
    report.say(f"  an answer took p50 {p50:.1f} s, p99 {p99:.1f} s; {tally.gaps:,} gap notices")
    report.say(f"  the upstream was asked {started:,} times")
    report.promise(
        f"nothing is lost, doubled or invented ({len(tally.wrong)} answers: {tally.wrong[:2]})",
        not tally.wrong,
    )
    report.promise(
        f"what does not end by itself had a server that died, hung or was cut off "
        f"({len(tally.unexcused)} had not: {tally.unexcused[:3]})",
        not tally.unexcused,
    )


def main() -> int:
    """Parse the command line, soak, and say whether all promises were kept."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak.cluster", description=__doc__)
    parser.add_argument("--answers", type=int, default=10_000)
    parser.add_argument("--minutes", type=float, default=10, help="it ends after so many")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    raise_descriptor_limit()
    report = Report()
    uvloop.run(soak(options.answers, options.minutes, options.seed, report))
    if report.broken:
        report.say("\n  ".join([f"{len(report.broken)} promises are broken:", *report.broken]))
        return 1
    report.say("All promises are kept.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
