"""A run: which peers are up, how much time is left, what has been measured and what went wrong."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Iterator
from pathlib import Path

import attrs

from tests.bench import audience, clients
from tests.bench.measure import Results
from tests.bench.peers.base import Peer
from tests.bench.peers.direct import Direct
from tests.bench.processes import Cores

EXPECTED_FAILURES = (audience.Incomplete, clients.Refused, TimeoutError, RuntimeError, OSError)


@attrs.define
class Bench:
    """What the works share.

    Attributes:
        cores: Who runs where.
        folder: For configurations and logs of the peers.
        quick: Smaller sizes and one round.
        most_rounds: No work is measured more often; None: as often as it wants to be.
        deadline: Monotonic seconds; no round begins that would probably end after it, and no
            measurement after it.
        results: Everything measured.
        failures: What could not be measured, and why.
    """

    cores: Cores
    folder: Path
    quick: bool
    most_rounds: int | None
    deadline: float
    results: Results = attrs.field(factory=Results)
    failures: list[str] = attrs.field(factory=list)
    _peers: dict[type[Peer], Peer] = attrs.field(factory=dict)
    _broken: set[type[Peer]] = attrs.field(factory=set)

    async def emitter(self) -> Peer:
        """The upstream, started at the first call, on its own core."""
        if Direct not in self._peers:
            peer = Direct(self.folder, "")
            await peer.start(self.cores.emitter)
            self._peers[Direct] = peer
        return self._peers[Direct]

    async def peer(self, kind: type[Peer], *, fresh: bool = False) -> Peer | None:
        """A running peer; `fresh`: one that has served nothing yet. None if it does not start."""
        if kind is Direct:
            return await self.emitter()
        if kind in self._broken or time.monotonic() > self.deadline:
            return None
        if kind not in self._peers:
            self._peers[kind] = kind(self.folder, (await self.emitter()).base)
            fresh = True
        peer = self._peers[kind]
        if fresh:
            await peer.stop()
            try:
                await peer.start(self.cores.server)
            except RuntimeError as error:
                self._broken.add(kind)
                self.fail(str(error))
                return None
        return peer

    async def stop(self, *kinds: type[Peer]) -> None:
        """Stop these peers, or all."""
        for kind in kinds or tuple(self._peers):
            if kind in self._peers:
                await self._peers.pop(kind).stop()

    def rounds(self, most: int, seconds: float) -> Iterator[int]:
        """Round numbers: at least one, then as many as fit into `seconds` and the deadline."""
        started = time.monotonic()
        for number in range(1 if self.quick else min(most, self.most_rounds or most)):
            now = time.monotonic()
            average = (now - started) / number if number else 0.0
            if number and (now + average > self.deadline or now + average > started + seconds):
                return
            yield number

    async def attempt(self, what: str, measurement: Awaitable[object]) -> None:
        """Measure; a failure is reported with the results and stops nothing else."""
        left = self.deadline - time.monotonic()
        say(f"  {what}")
        try:
            await asyncio.wait_for(measurement, max(left, 0.0))
        except EXPECTED_FAILURES as error:
            late = time.monotonic() > self.deadline
            self.fail(f"{what}: {'no time left' if late else str(error) or type(error).__name__}")

    def fail(self, what: str) -> None:
        """Remember a failure."""
        say(f"  failed: {what}")
        self.failures.append(what)


def say(text: str) -> None:
    """Tell the user what is going on."""
    print(text, file=sys.stderr, flush=True)
