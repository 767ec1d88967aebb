"""Cluster: what a store costs the owner of answers, the store itself, and who watches elsewhere."""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import attrs
import httpx
import orjson

from tests.bench import clients, processes
from tests.bench.audience import Incomplete
from tests.bench.bench import Bench
from tests.bench.measure import Meter, Sample, measuring
from tests.bench.peers.base import ChatFace, Peer
from tests.bench.peers.ours import Ours, OursInCluster, OursToo, ask_ours
from tests.bench.peers.per_token import PerToken
from tests.bench.peers.with_store import WithStore
from tests.bench.works import first_token, relay
from tests.bench.works.relay import Answer, Progress

WORK = "cluster"
TRIPS = "cluster: round trips"
FIRST = "cluster: first token"
OWNER, STORE, OTHER = "its owner", "the store", "who shows it elsewhere"
WITHOUT = "without a store"
THEIRS, THEIR_STORE = "per token, its owner", "per token, the store"
OWN_ID, SERVERS_ID = "id of the client's", "id of the server's"
ALONE, WATCHED = "", ", watched elsewhere"
SIZES = (100, 400)
TOKENS = 100
TIMEOUT = 60.0
_runs = itertools.count()


def case(answers: int, how: str = ALONE) -> str:
    """What the tables call it."""
    return f"{answers} answers{how}"


def ask_with_id(model: str, tokens: int) -> bytes:
    """A question under an id that the client has made."""
    return _ask_as(f"bench-{next(_runs)}", model, tokens)


def _ask_as(request_id: str, model: str, tokens: int) -> bytes:
    return orjson.dumps({**orjson.loads(ask_ours(model, tokens)), "request_id": request_id})


def _resume(request_id: str) -> bytes:
    return orjson.dumps(
        {
            "message_type": "chat_completion",
            "action": "resume",
            "request_id": request_id,
            "after": 0,
        }
    )


@attrs.define
class Measured:
    """CPU of several processes in the same time, and the round trips of two of them."""

    owner: Meter
    store: Meter = attrs.field(factory=Meter)
    other: Meter = attrs.field(factory=Meter)
    trips: Mapping[str, int] = attrs.field(factory=dict)

    def samples(
        self, case: str, faces: tuple[str, str], latencies: Sequence[int], tokens: int
    ) -> Iterator[Sample]:
        """What was measured, for so many tokens."""
        meters = zip((*faces, OTHER), (self.owner, self.store, self.other), strict=True)
        for face, meter in meters:
            if meter.cpu_ns:
                meter.wall_ns = self.owner.wall_ns
                seen = latencies if face == OTHER else ()
                yield meter.sample(work=WORK, case=case, face=face, units=tokens, latencies_ns=seen)


@contextmanager
def _measuring(peer: Peer, other: Peer | None) -> Iterator[Measured]:
    store = [peer.store.pid] if isinstance(peer, WithStore) else []
    others = [] if other is None else other.pids()
    sharing: dict[str, Peer] = {OWNER: peer} if isinstance(peer, OursInCluster) else {}
    if other is not None:
        sharing[OTHER] = other
    trips = {face: _trips(each) for face, each in sharing.items()}
    at_store, at_other = processes.cpu_ns(store), processes.cpu_ns(others)
    with measuring(peer) as meter:
        measured = Measured(meter)
        yield measured
    measured.store.cpu_ns = processes.cpu_ns(store) - at_store
    measured.other.cpu_ns = processes.cpu_ns(others) - at_other
    measured.trips = {face: _trips(each) - trips[face] for face, each in sharing.items()}


def _trips(peer: Peer) -> int:
    """How many round trips to the store a process of ours says it has made."""
    with httpx.Client(trust_env=False) as client:
        text = client.get(f"{peer.base}/metrics").text
    found = re.search(r"^streaming_cluster_round_trips_total (\S+)", text, re.MULTILINE)
    assert found is not None
    return int(float(found[1]))


async def alone(bench: Bench, peer: Peer, answers: int, faces: tuple[str, str]) -> None:
    """Answers that nobody watches elsewhere."""
    face = peer.chat_faces()[0]
    opened = await clients.open_all(answers, face.connect)
    progress = Progress(answers)
    try:
        async with asyncio.timeout(TIMEOUT):
            for client in opened:
                face.start(client, "paced", TOKENS, Answer(TOKENS, face.end, progress))
            await progress.begun
            await asyncio.sleep(relay.SETTLE)
            before = len(progress.latencies)
            with _measuring(peer, None) as measured:
                await progress.done
    finally:
        await clients.close_all(opened)
    tokens = len(progress.latencies) - before
    for sample in measured.samples(case(answers), faces, (), tokens):
        bench.results.add(sample)
    _add_trips(bench, case(answers), measured)


def _add_trips(bench: Bench, size: str, measured: Measured) -> None:
    for face, trips in measured.trips.items():
        meter = Meter(wall_ns=measured.owner.wall_ns)
        bench.results.add(meter.sample(work=TRIPS, case=size, face=face, units=trips))


async def watched(bench: Bench, peer: OursInCluster, other: Peer, answers: int) -> None:
    """Answers that are watched here and on another process."""
    here, there = peer.chat_faces()[0], other.chat_faces()[0]
    names = [f"bench-{next(_runs)}" for _ in range(answers)]
    starting = await clients.open_all(answers, here.connect)
    watching = await clients.open_all(answers, there.connect)
    own, remote = Progress(answers), Progress(answers)
    try:
        async with asyncio.timeout(TIMEOUT):
            for name, client in zip(names, starting, strict=True):
                client.receiver = Answer(TOKENS, here.end, own)
                client.send(clients.client_frame(_ask_as(name, "paced", TOKENS)))
            await own.begun
            for name, client in zip(names, watching, strict=True):
                client.receiver = Answer(TOKENS, there.end, remote)
                client.send(clients.client_frame(_resume(name)))
            await remote.begun
            await asyncio.sleep(relay.SETTLE)
            before, seen = len(own.latencies), len(remote.latencies)
            with _measuring(peer, other) as measured:
                await own.done
                await remote.done
    except TimeoutError:
        raise Incomplete(f"{len(remote.latencies)} tokens elsewhere in {TIMEOUT:.0f} s") from None
    finally:
        await clients.close_all([*starting, *watching])
    tokens = len(own.latencies) - before
    size = case(answers, WATCHED)
    for sample in measured.samples(size, (OWNER, STORE), remote.latencies[seen:], tokens):
        bench.results.add(sample)
    _add_trips(bench, size, measured)


async def first(bench: Bench, peer: OursInCluster, name: str, face: ChatFace) -> None:
    """The time to the first token, where an id has to be claimed and where it has not."""
    probe = first_token.Probe(face)
    await probe.once()
    probe.times.clear()
    try:
        with measuring(peer) as meter:
            for _ in range(20 if bench.quick else 100):
                await probe.once()
    finally:
        await probe.close()
    bench.results.add(
        meter.sample(
            work=FIRST,
            case=first_token.IDLE,
            face=name,
            units=len(probe.times),
            latencies_ns=probe.times,
        )
    )


async def run(bench: Bench) -> None:
    """Owner, store and another process, at each size, round after round."""
    for number in bench.rounds(3, seconds=90):
        peer = await bench.peer(OursInCluster)
        without = await bench.peer(Ours)
        theirs = await bench.peer(PerToken)
        if not isinstance(peer, OursInCluster):
            return
        other = OursToo(bench.folder, (await bench.emitter()).base, peer.store.url)
        try:
            await other.start(bench.cores.load)
            for answers in (20,) if bench.quick else SIZES:
                what = f"{WORK}, round {number + 1}: {case(answers)}"
                if without is not None:
                    measurement = alone(bench, without, answers, (WITHOUT, ""))
                    await bench.attempt(f"{what}, {WITHOUT}", measurement)
                await bench.attempt(what, alone(bench, peer, answers, (OWNER, STORE)))
                await bench.attempt(f"{what}{WATCHED}", watched(bench, peer, other, answers))
                if isinstance(theirs, PerToken) and answers <= theirs.most_answers:
                    measurement = alone(bench, theirs, answers, (THEIRS, THEIR_STORE))
                    await bench.attempt(f"{what}, {theirs.name}", measurement)
            face = peer.chat_faces()[0]
            for name, ask in ((OWN_ID, ask_with_id), (SERVERS_ID, ask_ours)):
                what = f"{FIRST}, round {number + 1}: {name}"
                await bench.attempt(what, first(bench, peer, name, attrs.evolve(face, ask=ask)))
        finally:
            await other.stop()
