"""Resume: many clients come back at once, and each is replayed what it has missed."""

from __future__ import annotations

import asyncio
import re

from tests.bench import clients
from tests.bench.audience import Audience
from tests.bench.bench import Bench
from tests.bench.measure import Results, measuring
from tests.bench.peers.base import Peer, ViewFace
from tests.bench.peers.nginx import Nchan
from tests.bench.peers.ours import Ours

WORK = "resume"
PEERS: tuple[type[Peer], ...] = (Nchan, Ours)
SIZE = 200
MESSAGES = 500
BURST = 10
REPLAY_TIMEOUT = 60.0
CURSOR = re.compile(rb'"cursor":"([^"]+)"|^id: ?(.+?)\r?$', re.MULTILINE)


class LastCursor:
    """Remembers the last cursor that a viewer has been given."""

    def __init__(self) -> None:
        """Start without one."""
        self.cursor = ""
        self.found: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def received(self, client: clients.Client, data: bytes) -> None:
        """Look for a cursor in what a read brought."""
        for payload in client.split(data):
            for in_message, in_event in CURSOR.findall(payload):
                self.cursor = (in_message or in_event).decode()
                if not self.found.done():
                    self.found.set_result(None)


async def measure(results: Results, peer: Peer, face: ViewFace, count: int, messages: int) -> None:
    """Publish `messages` at a fresh server, then let `count` clients ask for all of them at once.

    Raises:
        Incomplete: A client did not receive each message once, in order and whole.
    """
    if face.replay is None:
        raise ValueError(f"{face.name} cannot replay")
    cursor = await _cursor(face) if face.ready is not None else ""
    publishing = Audience(peer, face)
    await publishing.gather(1)
    await publishing.broadcast(size=SIZE, burst=BURST, times=messages // BURST)
    await publishing.leave()
    back = Audience(peer, face.replay(cursor))
    everything = back.expect(count, messages, SIZE)
    try:
        with measuring(peer) as meter:
            await back.gather(count)
            async with asyncio.timeout(REPLAY_TIMEOUT):
                await everything
    finally:
        await back.leave()
    results.add(
        meter.sample(work=WORK, case=case(count, messages), face=face.name, units=count * messages)
    )


async def _cursor(face: ViewFace) -> str:
    """Where the topic stands now, as a viewer is told."""
    last = LastCursor()
    client = await face.connect(last)
    async with asyncio.timeout(REPLAY_TIMEOUT):
        await last.found
    await clients.close_all([client])
    return last.cursor


def case(count: int, messages: int) -> str:
    """What the tables call it."""
    return f"{count:,} clients, {messages} messages each"


async def run(bench: Bench) -> None:
    """Whoever can replay, freshly started."""
    count = 100 if bench.quick else 1_000
    for number in bench.rounds(2, seconds=40):
        for kind in PEERS:
            for index in range(2):
                peer = await bench.peer(kind, fresh=True)
                if peer is not None:
                    face = peer.view_faces()[index]
                    what = f"{WORK}, round {number + 1}: {case(count, MESSAGES)}, {face.name}"
                    await bench.attempt(what, measure(bench.results, peer, face, count, MESSAGES))
