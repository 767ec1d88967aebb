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
REPEATED: tuple[type[Peer], ...] = (Nchan, Ours)
REPEATS = 8
MOST = 8_000
DELIVERIES = {1: 30_000, 10: 100_000}
"""About how many deliveries one measurement has; of a burst, each costs little."""


async def measure(
    results: Results,
    peer: Peer,
    face: ViewFace,
    viewers: int,
    sizes: tuple[int, ...],
    bursts: tuple[int, ...] = (1, 10),
) -> None:
    """Gather the viewers, then publish each size one at a time, 1 kB in these bursts.

    Raises:
        Incomplete: Somebody did not receive each message once, in order and whole.
    """
    audience = Audience(peer, face)
    try:
        await audience.gather(viewers)
        await audience.broadcast(size=100, burst=1, times=2)
        for size in sizes:
            for burst in bursts if size == KB else (1,):
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
    """Every peer before every audience, all sizes before 1,000 viewers.

    One message of 1 kB to 1,000 viewers is repeated: the target is the median of ten rounds.
    """
    for number in bench.rounds(2, seconds=190):
        for viewers in (1_000,) if bench.quick else (1_000, 100, MOST):
            for kind in PEERS:
                if viewers == MOST and number and kind.heaviness > 1:
                    continue
                peer = await bench.peer(kind)
                if peer is not None:
                    await _all_faces(bench, peer, viewers, f"round {number + 1}")
    for number in bench.rounds(REPEATS, seconds=90):
        for kind in REPEATED:
            peer = await bench.peer(kind)
            if peer is not None:
                await _once_more(bench, peer, f"repeated, {number + 1}")


async def _once_more(bench: Bench, peer: Peer, when: str) -> None:
    for face in peer.view_faces():
        if not face.compressed:
            what = f"{WORK}, {when}: to 1,000, {face.name}"
            await bench.attempt(what, measure(bench.results, peer, face, 1_000, (KB,), (1,)))


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
