"""Broadcast: one message, or ten at once, to many viewers."""

from __future__ import annotations

from tests.bench.audience import Audience
from tests.bench.bench import Bench
from tests.bench.measure import Results, measuring
from tests.bench.peers.base import Peer, ViewFace
from tests.bench.peers.fastapi import FastApi, FastApiCompressed
from tests.bench.peers.nginx import Nchan, NchanCompressed
from tests.bench.peers.ours import Ours

WORK = "broadcast"
KB = 1_000
SIZES = (100, 1_000, 16_000)
PEERS: tuple[type[Peer], ...] = (Nchan, FastApi, Ours, NchanCompressed, FastApiCompressed)
MOST = 8_000
DELIVERIES = {1: 30_000, 10: 100_000}
"""About how many deliveries one measurement has; of a burst, each costs little."""


async def measure(
    results: Results, peer: Peer, face: ViewFace, viewers: int, sizes: tuple[int, ...]
) -> None:
    """Gather the viewers, then publish: each size one at a time, 1 kB in bursts of ten too.

    Raises:
        Incomplete: Somebody did not receive each message once, in order and whole.
    """
    audience = Audience(peer, face)
    try:
        await audience.gather(viewers)
        await audience.broadcast(size=100, burst=1, times=2)
        for size in sizes:
            for burst in (1, 10) if size == KB else (1,):
                wanted = DELIVERIES[burst] // peer.heaviness // viewers // burst
                least = 2 if burst > 1 else 4
                times = max(-(-least // peer.heaviness), min(40, wanted))
                with measuring(peer) as meter:
                    deliveries = await audience.broadcast(size, burst, times)
                results.add(
                    meter.sample(
                        work=WORK,
                        case=case(viewers, size, burst, compressed=face.compressed),
                        face=face.name,
                        units=deliveries,
                        latencies_ns=audience.latencies,
                    )
                )
    finally:
        await audience.leave()


def case(viewers: int, size: int, burst: int = 1, *, compressed: bool = False) -> str:
    """What the tables call it."""
    name = f"{size} B" if size < KB else f"{size // KB} kB"
    how = " in bursts of ten" if burst > 1 else ""
    return f"{name} to {viewers:,}{how}{', compressed' if compressed else ''}"


async def run(bench: Bench) -> None:
    """Every peer before every audience; all sizes before 1,000 viewers, the largest twice."""
    for number in bench.rounds(3, seconds=200):
        for viewers in (1_000,) if bench.quick else (1_000, 100, MOST):
            for kind in PEERS:
                if viewers == MOST and (number >= 2 or (number and kind.heaviness > 1)):
                    continue
                peer = await bench.peer(kind)
                if peer is not None:
                    await _all_faces(bench, peer, viewers, f"round {number + 1}")


async def _all_faces(bench: Bench, peer: Peer, viewers: int, when: str) -> None:
    # WebSocket first; of each, what is compressed right after what is plain.
    for face in sorted(peer.view_faces(), key=lambda face: face.name, reverse=True):
        if face.compressed and viewers == 100:
            continue
        every_size = viewers == 1_000 and not face.compressed
        sizes = SIZES if every_size else (KB,)
        what = f"{WORK}, {when}: to {viewers:,}, {face.name}"
        what += " compressed" if face.compressed else ""
        await bench.attempt(what, measure(bench.results, peer, face, viewers, sizes))
