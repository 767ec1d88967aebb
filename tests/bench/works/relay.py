"""Relay: answers that stream through a peer, at reading speed and flat out."""

from __future__ import annotations

import asyncio
import time

from tests.bench import clients
from tests.bench.audience import MARK, Incomplete
from tests.bench.bench import Bench
from tests.bench.measure import measuring
from tests.bench.peers.base import ChatFace, Peer
from tests.bench.peers.direct import Direct
from tests.bench.peers.fastapi import FastApi
from tests.bench.peers.litellm import LiteLlm
from tests.bench.peers.nginx import Nginx
from tests.bench.peers.ours import Ours, OursInCluster, Pure

WORK = "relay"
PEERS: tuple[type[Peer], ...] = (Direct, Nginx, FastApi, LiteLlm, Ours, Pure, OursInCluster)
PACED, SLOW, FLAT = "paced", "slow", "flat"
"""Models of the emitter: 50 and 20 tokens a second, and as many as the connection takes."""
CASES = ((PACED, 100), (PACED, 10), (FLAT, 10), (PACED, 512), (PACED, 1), (SLOW, 1_000))
TOKENS = {PACED: 60, SLOW: 40}
"""Of one answer; a flat one has as many as the peer is fast."""
ANSWER_TIMEOUT = 60.0
SETTLE = 0.1
"""Seconds after every answer has begun until the measurement does."""


class Answer:
    """Receives one answer: every token once, in order, and the end.

    Attributes:
        tokens: How many have come.
    """

    def __init__(self, expected: int, end: bytes, progress: Progress) -> None:
        """Expect so many tokens and then `end`."""
        self.tokens = 0
        self._expected = expected
        self._end = end
        self._progress = progress
        self._last = 0

    def received(self, client: clients.Client, data: bytes) -> None:
        """Take what a read brought."""
        now = time.monotonic_ns()
        before = self.tokens
        for payload in client.split(data):
            for number, written in MARK.findall(payload):
                self.tokens += 1
                if int(number) != self.tokens:
                    raise self._progress.fail(f"token {int(number)} instead of {self.tokens}")
                if self.tokens == 1:
                    self._progress.begin()
                self._progress.latencies.append(now - int(written))
            if self.tokens == self._expected and self._end in payload:
                self._progress.finish()
        if self.tokens > before:
            if self._last:
                self._progress.gaps.append(now - self._last)
            self._last = now


class Progress:
    """All answers of one measurement.

    Attributes:
        latencies: Nanoseconds from the emitter's write to here, of every token.
        gaps: Nanoseconds between two reads of one answer that brought tokens.
        begun, done: Complete when every answer has begun, and has ended.
    """

    def __init__(self, answers: int) -> None:
        """Wait for so many answers."""
        loop = asyncio.get_running_loop()
        self.latencies: list[int] = []
        self.gaps: list[int] = []
        self.begun: asyncio.Future[None] = loop.create_future()
        self.done: asyncio.Future[None] = loop.create_future()
        self._to_begin = self._to_end = answers

    def begin(self) -> None:
        """Count a first token."""
        self._to_begin -= 1
        if not self._to_begin:
            self.begun.set_result(None)

    def finish(self) -> None:
        """Count an end."""
        self._to_end -= 1
        if not self._to_end and not self.done.done():
            self.done.set_result(None)

    def fail(self, what: str) -> Incomplete:
        """End the measurement."""
        error = Incomplete(what)
        for future in (self.begun, self.done):
            if not future.done():
                future.set_exception(error)
        return error


async def measure(
    bench: Bench, peer: Peer, face: ChatFace, model: str, answers: int, tokens: int
) -> None:
    """Stream `answers` of `tokens` tokens each; counts from when all have begun to the end.

    A peer so far behind that most tokens have passed by then is counted from the first request on.

    Raises:
        Incomplete: A token or an end is missing, doubled or out of order.
    """
    opened = await clients.open_all(answers, face.connect)
    progress = Progress(answers)
    receivers = [Answer(tokens, face.end, progress) for _ in opened]
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT):
            with measuring(peer) as whole:
                for client, receiver in zip(opened, receivers, strict=True):
                    face.start(client, model, tokens, receiver)
                await progress.begun
                if model != FLAT:
                    await asyncio.sleep(SETTLE)
                before, gaps_before = len(progress.latencies), len(progress.gaps)
                with measuring(peer) as steady:
                    await progress.done
    except TimeoutError:
        got = sum(receiver.tokens for receiver in receivers)
        raise Incomplete(f"{got} of {answers * tokens} tokens in {ANSWER_TIMEOUT:.0f} s") from None
    finally:
        await clients.close_all(opened)
    late = before > answers * tokens / 2
    latencies = progress.latencies if late else progress.latencies[before:]
    sample = (whole if late else steady).sample(
        work=WORK,
        case=case(model, answers),
        face=face.name,
        units=len(latencies),
        latencies_ns=() if model == FLAT else latencies,
        gaps_ns=() if model == FLAT else progress.gaps[gaps_before:],
    )
    bench.results.add(sample)


def case(model: str, answers: int) -> str:
    """What the tables call it."""
    plural = "" if answers == 1 else "s"
    how = {PACED: "", SLOW: " at 20 tokens/s", FLAT: ", flat out"}[model]
    return f"{answers:,} answer{plural}{how}"


async def run(bench: Bench) -> None:
    """Every peer, every size, in turn, round after round."""
    for number in bench.rounds(3, seconds=230):
        for model, answers in CASES[:3] if bench.quick else CASES:
            for kind in PEERS:
                if kind is Pure and Ours.root == Pure.root:
                    continue  # they are the same
                peer = await bench.peer(kind)
                if peer is None or number >= kind.relay_rounds or answers > kind.most_answers:
                    continue
                tokens = TOKENS.get(model, kind.flat_tokens)
                for face in peer.chat_faces():
                    what = f"{WORK}, round {number + 1}: {case(model, answers)}, {face.name}"
                    await bench.attempt(what, measure(bench, peer, face, model, answers, tokens))
