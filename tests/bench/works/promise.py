"""The promise: 1,000 WebSockets, 500 event streams, 100 answers, metrics each second."""

from __future__ import annotations

import asyncio
import re
import time

import orjson

from tests.bench import clients, processes
from tests.bench.audience import MARK, Incomplete
from tests.bench.bench import Bench
from tests.bench.measure import Results, measuring
from tests.bench.peers.base import ChatFace, Peer, ViewFace
from tests.bench.peers.ours import END_OF_ANSWER, SSE, WEBSOCKET, Ours, ask_ours
from tests.bench.works import relay

WORK = "the promise"
TOKENS = "tokens of the answers"
METRICS = "metrics, each second"
EMITTED = re.compile(rb'"bench_emitted_nanoseconds[^"]*":\s*([0-9.eE+]+)')
SUBSCRIBE = orjson.dumps({"message_type": "metrics_update", "action": "subscribe"})


class Watcher:
    """Takes metrics and answers on the same connections.

    Attributes:
        metrics, tokens: Nanoseconds from the emitter's write to here, of each delivery.
        updates: How often each client has been told new metrics.
    """

    def __init__(self, answers: relay.Progress) -> None:
        """Report answers to `answers`."""
        self.metrics: list[int] = []
        self.tokens = answers.latencies
        self.updates: dict[clients.Client, set[int]] = {}
        self._answers = answers
        self._known: dict[bytes, int] = {}

    def received(self, client: clients.Client, data: bytes) -> None:
        """Take a read; reads that many clients have in common are parsed once."""
        now = time.monotonic_ns()
        whole = client.at_boundary
        emitted = self._known.get(data) if whole else None
        if emitted is not None:
            self._told(client, emitted, now)
            return
        for payload in client.split(data):
            found = EMITTED.search(payload)
            if found is not None:
                self._told(client, int(float(found[1])), now)
                if whole and client.at_boundary and payload.count(b'"data"') == 1:
                    self._known = {data: int(float(found[1]))}
            for number, written in MARK.findall(payload):
                client.seen += 1
                if int(number) != client.seen:
                    raise self._answers.fail(f"token {int(number)} instead of {client.seen}")
                if client.seen == 1:
                    self._answers.begin()
                self.tokens.append(now - int(written))
            if END_OF_ANSWER in payload:
                self._answers.finish()

    def _told(self, client: clients.Client, emitted: int, now: int) -> None:
        self.updates.setdefault(client, set()).add(emitted)
        self.metrics.append(now - emitted)


async def measure(results: Results, peer: Peer, seconds: int, share: int = 1) -> None:
    """Keep the promise for so many seconds; `share` divides the number of clients (quick runs).

    Raises:
        Incomplete: A token, or an update of the metrics for anybody, is missing.
    """
    chat, websocket, sse = _faces(peer)
    answers = 100 // share
    progress = relay.Progress(answers)
    watcher = Watcher(progress)
    opened = await clients.open_all(1000 // share, lambda: websocket.connect(watcher))
    opened += await clients.open_all(500 // share, lambda: sse.connect(watcher))
    try:
        for client in opened[:answers]:
            client.send(clients.client_frame(chat.ask("paced", seconds * 50)))
        await progress.begun
        await asyncio.sleep(relay.SETTLE)
        watcher.metrics.clear()
        watcher.tokens.clear()
        with measuring(peer) as meter:
            async with asyncio.timeout(seconds + relay.ANSWER_TIMEOUT):
                await progress.done
        memory = processes.memory_bytes(peer.pids())
    finally:
        await clients.close_all(opened)
    _check(watcher, opened)
    for case, latencies in ((TOKENS, watcher.tokens), (METRICS, watcher.metrics)):
        results.add(
            meter.sample(
                work=WORK,
                case=case,
                face=peer.name,
                units=len(latencies),
                latencies_ns=latencies,
                memory=memory,
            )
        )


def _faces(peer: Peer) -> tuple[ChatFace, ViewFace, ViewFace]:
    websocket = ViewFace(
        name=WEBSOCKET, url=f"{peer.base}/streaming/websocket", websocket=True, subscribe=SUBSCRIBE
    )
    sse = ViewFace(name=SSE, url=f"{peer.base}/streaming/sse/metrics", websocket=False)
    chat = ChatFace(
        name=WEBSOCKET, url=websocket.url, websocket=True, end=END_OF_ANSWER, ask=ask_ours
    )
    return chat, websocket, sse


def _check(watcher: Watcher, opened: list[clients.Client]) -> None:
    """Every client has every update from the last joining to the first leaving."""
    seen = [watcher.updates.get(client, set()) for client in opened]
    common = set.union(*seen)
    first = max((min(updates, default=0) for updates in seen), default=0)
    last = min((max(updates, default=0) for updates in seen), default=0)
    expected = {update for update in common if first <= update <= last}
    if len(expected) < 2 or any(expected - updates for updates in seen):
        late = sum(bool(expected - updates) for updates in seen)
        raise Incomplete(f"{late} clients missed some of {len(expected)} metrics updates")


async def run(bench: Bench) -> None:
    """Ours alone, freshly started: the promise is about this server."""
    peer = await bench.peer(Ours, fresh=True)
    if peer is not None:
        seconds, share = (4, 5) if bench.quick else (10, 1)
        await bench.attempt(WORK, measure(bench.results, peer, seconds, share))
