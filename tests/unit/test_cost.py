"""What a token and a delivery cost: calls and allocations, counted, the same on any machine.

A figure that grows by a fifth fails. Lower one when the code has become cheaper; raise one only
with a reason in the commit.
"""

from __future__ import annotations

import gc
import sys
import tracemalloc
from collections.abc import Callable

import pytest

from streaming_api.answer_record import AnswerRecord
from streaming_api.ops.context import Context
from streaming_api.upstreams.gateway import ExchangeResult
from streaming_api.upstreams.http1 import ResponseProtocol
from streaming_api.wire import framing
from streaming_api.wire.framing import Framing
from tests.fakes import hot_path
from tests.fakes.hot_path import READ, CountingTransport, relay, watching

GROWTH = 1.2


def counted(work: Callable[[], object]) -> int:
    """Calls, of Python and of C, that the work makes."""
    calls = 0

    def count(_frame: object, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event in {"call", "c_call"}

    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(None)
    return calls - 1  # sys.setprofile itself


def calls_a_token(
    context: Context, stream: ResponseProtocol, transport: CountingTransport, tokens: int
) -> float:
    """Calls for each token, where each of 20 reads brings so many; each read is one write."""
    read = READ * tokens

    def reads(times: int = 20) -> None:
        for _ in range(times):
            stream.data_received(read)
            context.answers.turn.end()

    reads(2)
    before = transport.writes
    calls = counted(reads) / 20 / tokens
    assert transport.writes - before == 20, "one write a read, however many tokens it brought"
    return calls


@pytest.fixture
async def context() -> Context:
    return hot_path.context()


@pytest.mark.parametrize(
    ("kind", "tokens", "most"),
    [
        (framing.WEBSOCKET, 1, 66),
        (framing.CHUNKED_EVENTS, 1, 66),
        (framing.CHUNKED_OPENAI, 1, 69),
        (framing.WEBSOCKET, 50, 20),
        (framing.CHUNKED_EVENTS, 50, 20),
    ],
    ids=lambda value: getattr(value, "name", str(value)),
)
async def test_relaying_a_token_makes_so_many_calls(
    context: Context, kind: Framing, tokens: int, most: int
) -> None:
    """One token a read, as an answer at human speed comes; and many, as a burst comes."""
    stream, transport = relay(context, kind)
    assert calls_a_token(context, stream, transport, tokens) <= most * GROWTH


@pytest.mark.parametrize(
    ("face", "tokens", "most"),
    [
        ("responses", 1, 128),
        ("ui-messages", 1, 123),
        ("responses", 50, 42),
        ("ui-messages", 50, 37),
    ],
)
async def test_a_token_on_another_wire_makes_so_many_calls(
    context: Context, face: str, tokens: int, most: int
) -> None:
    """The answer's stream, and the derived one: two appends and one write, and nothing parsed."""
    stream, transport = hot_path.derived(context, face)
    assert calls_a_token(context, stream, transport, tokens) <= most * GROWTH


async def test_a_token_leaves_nothing_for_the_garbage_collector(context: Context) -> None:
    stream, _ = relay(context, framing.WEBSOCKET)
    stream.data_received(READ * 100)
    context.answers.turn.end()
    gc.collect()
    before = len(gc.get_objects())
    for _ in range(1_000):
        stream.data_received(READ)
        context.answers.turn.end()
    assert len(gc.get_objects()) - before < 10


async def test_telemetry_costs_an_answer_and_not_a_token(context: Context) -> None:
    """Log line, histograms, usage and spans are made at the end, of what is there by then."""
    records: list[AnswerRecord] = []
    context.telemetry.on_answer.append(records.append)

    def end(tokens: int) -> int:
        relay(context, framing.WEBSOCKET, f"r-{tokens}")[0].data_received(READ * tokens)
        context.answers.turn.end()
        answer = context.answers.local(("", f"r-{tokens}"))
        assert answer is not None
        answer._exchange = None
        return counted(lambda: answer._end(ending))

    ending = ExchangeResult(finish_reason="stop", usage=None, error=None, content_chunks=1)
    few, many = end(1), end(2_000)
    assert [record.chunks for record in records] == [2, 2_001]
    assert many - few <= 2_000 * 0.5, "half a call a token is far below a microsecond"


async def test_a_delivery_makes_two_calls_and_keeps_nothing(context: Context) -> None:
    """A write, and the question whether the kernel took it."""
    channel = context.topics.channel
    viewers = 1_000
    for _ in range(viewers):
        context.topics.watch(watching(context, framing.WEBSOCKET), ("status",), None)
    stream = channel.streams["status"]
    data = (b'{"event":"changed"}',)
    channel.append(stream, data, urgent=True)
    calls = counted(lambda: channel.append(stream, data, urgent=True)) / viewers
    assert calls <= 2.1 * GROWTH

    tracemalloc.start()
    try:
        channel.append(stream, data, urgent=True)
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(50):
            channel.append(stream, data, urgent=True)
        kept = (tracemalloc.get_traced_memory()[0] - before) / 50
    finally:
        tracemalloc.stop()
    assert kept <= 270 * GROWTH, "bytes a message, and none a viewer"
