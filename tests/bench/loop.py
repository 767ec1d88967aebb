"""What relaying a token costs without sockets: in a loop, and after the loop has slept.

``python -m tests.bench.loop``: microseconds for each token, one token a read, 100 answers in turn.
In a loop, the code and what it touches stay in the processor's caches. A server sleeps between the
tokens of its answers, and others use the processor meanwhile.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator

import uvloop

from streaming_api.engine.turn import Turn
from streaming_api.upstreams.http1 import ResponseProtocol
from streaming_api.wire import framing
from tests.fakes import hot_path

ANSWERS = 100
ROUNDS = 400
TOGETHER = 6
"""Tokens that one wake-up brings, about as many as 100 answers at 50 tokens a second do."""


def main() -> None:
    """Print both figures."""
    uvloop.run(_measure())


async def _measure() -> None:
    context = hot_path.context()
    answers = [
        hot_path.relay(context, framing.WEBSOCKET, f"r-{number}")[0] for number in range(ANSWERS)
    ]
    for pause in (0.0, 0.001):
        what = f"after {pause * 1000:g} ms of sleep" if pause else "in a loop"
        costs = sorted(_turns(answers, context.answers.turn, pause))
        print(f"{what}: {statistics.median(costs):.1f} µs")


def _turns(answers: list[ResponseProtocol], turn: Turn, pause: float) -> Iterator[float]:
    """What each of the tokens that came together in one turn of the event loop cost."""
    number = 0
    for _ in range(ROUNDS):
        if pause:
            time.sleep(pause)
        started = time.perf_counter_ns()
        for _ in range(TOGETHER):
            number += 1
            answers[number % ANSWERS].data_received(hot_path.READ)
        turn.end()
        yield (time.perf_counter_ns() - started) / 1000 / TOGETHER


if __name__ == "__main__":
    main()
