"""First token: what a peer adds to the time until an answer begins, idle and under 100 answers."""

from __future__ import annotations

import asyncio
import time

from tests.bench import clients
from tests.bench.audience import MARK, Incomplete
from tests.bench.bench import Bench
from tests.bench.measure import measuring
from tests.bench.peers.base import ChatFace, Peer
from tests.bench.peers.litellm import LiteLlm
from tests.bench.works import relay

WORK = "first token"
IDLE = "idle server"
PROBE_TIMEOUT = 10.0
PAUSE = 0.005
"""Seconds between two probes beside other answers."""


class Probe:
    """Asks for answers of one token, one after the other, and takes the time of each.

    A server that keeps connections open is asked on one; where each answer ends its connection,
    the time includes that of opening the next.

    Attributes:
        times: Nanoseconds from asking to the first token.
    """

    def __init__(self, face: ChatFace) -> None:
        """Ask at `face`."""
        self.times: list[int] = []
        self._face = face
        self._client: clients.Client | None = None
        self._first = 0
        self._end_seen = False
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def received(self, client: clients.Client, data: bytes) -> None:
        """Note when the token comes, and when the answer has ended."""
        now = time.monotonic_ns()
        for payload in client.split(data):
            if not self._first and MARK.search(payload):
                self._first = now
            self._end_seen = self._end_seen or self._face.end in payload
        if self._end_seen and client.idle and not self._ended.done():
            self._ended.set_result(None)

    async def once(self) -> None:
        """One answer."""
        self._first = 0
        self._end_seen = False
        self._ended = asyncio.get_running_loop().create_future()
        asked = time.monotonic_ns()
        if self._client is None:
            self._client = await self._face.connect()
        self._face.start(self._client, "paced", 1, self)
        async with asyncio.timeout(PROBE_TIMEOUT):
            await self._ended
        if not self._first:
            raise Incomplete("an answer of one token came without the token")
        self.times.append(self._first - asked)
        if not self._client.kept:
            await self.close()

    async def close(self) -> None:
        """Close the connection."""
        if self._client is not None:
            await clients.close_all([self._client])
            self._client = None


async def measure(bench: Bench, peer: Peer, face: ChatFace, probes: int, answers: int) -> None:
    """Probe a server that has nothing else to do, or that streams so many answers besides."""
    probe = Probe(face)
    await probe.once()
    probe.times.clear()
    background = await clients.open_all(answers, face.connect)
    try:
        with measuring(peer) as meter:
            if answers:
                await _beside(face, background, probe)
            else:
                for _ in range(probes):
                    await probe.once()
    finally:
        await probe.close()
        await clients.close_all(background)
    sample = meter.sample(
        work=WORK,
        case=case(answers),
        face=face.name,
        units=len(probe.times),
        latencies_ns=probe.times,
    )
    bench.results.add(sample)


async def _beside(face: ChatFace, background: list[clients.Client], probe: Probe) -> None:
    """Probe while the answers stream; they last two seconds."""
    progress = relay.Progress(len(background))
    for client in background:
        face.start(client, "paced", 100, relay.Answer(100, face.end, progress))
    await progress.begun
    await asyncio.sleep(relay.SETTLE)
    while not progress.done.done():
        await probe.once()
        await asyncio.sleep(PAUSE)


def case(answers: int) -> str:
    """What the tables call it."""
    return f"beside {answers} answers" if answers else IDLE


async def run(bench: Bench) -> None:
    """Every peer idle, and beside 100 answers those that can relay so many."""
    for number in bench.rounds(3, seconds=60):
        for answers in (0, 10 if bench.quick else 100):
            for kind in relay.PEERS:
                peer = await bench.peer(kind)
                if peer is None or (kind is LiteLlm and (answers or number)):
                    continue
                for face in peer.chat_faces():
                    what = f"{WORK}, round {number + 1}: {case(answers)}, {face.name}"
                    probes = 20 if kind is LiteLlm else 100
                    await bench.attempt(what, measure(bench, peer, face, probes, answers))
