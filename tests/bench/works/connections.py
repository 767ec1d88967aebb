"""Connections: what accepting one costs, what an idle one holds, that all are served."""

from __future__ import annotations

import asyncio

from tests.bench import processes
from tests.bench.audience import Audience
from tests.bench.bench import Bench
from tests.bench.measure import Results, measuring
from tests.bench.peers.base import Peer, ViewFace
from tests.bench.peers.fastapi import FastApi
from tests.bench.peers.nginx import Nchan
from tests.bench.peers.ours import Ours

WORK = "connections"
PEERS: tuple[type[Peer], ...] = (Nchan, FastApi, Ours)
SETTLE = 1.0
"""Seconds of silence before the memory is read."""


async def measure(results: Results, peer: Peer, face: ViewFace, count: int) -> None:
    """Open `count` viewers at a fresh server, leave them idle, then send each of them one message.

    Raises:
        Incomplete: A connection was refused, or did not get the message.
    """
    warm = Audience(peer, face)
    await warm.gather(20)
    await warm.broadcast(size=1_000, burst=1, times=2)
    await warm.leave()
    audience = Audience(peer, face)
    try:
        await asyncio.sleep(SETTLE)
        before = processes.memory_bytes(peer.pids())
        with measuring(peer) as accepting:
            await audience.gather(count)
        await asyncio.sleep(SETTLE)
        held = (processes.memory_bytes(peer.pids()) - before) / count
        await audience.broadcast(size=1_000, burst=1, times=1)
    finally:
        await audience.leave()
    sample = accepting.sample(work=WORK, case=case(count), face=face.name, units=count, memory=held)
    results.add(sample)


def case(count: int) -> str:
    """What the tables call it."""
    return f"{count:,} viewers"


async def run(bench: Bench) -> None:
    """Every way to watch, each at a server that has just started."""
    count = 1_000 if bench.quick else 8_000
    for number in bench.rounds(2, seconds=70):
        for kind in PEERS:
            if number and kind.heaviness > 1:
                continue
            for index in range(2):
                peer = await bench.peer(kind, fresh=True)
                if peer is not None:
                    face = peer.view_faces()[index]
                    what = f"{WORK}, round {number + 1}: {case(count)}, {face.name}"
                    await bench.attempt(what, measure(bench.results, peer, face, count))
