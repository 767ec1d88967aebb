"""What a token and a delivery cost: calls and allocations, counted, the same on any machine.

A figure that grows by a fifth fails. Lower one when the code has become cheaper; raise one only
with a reason in the commit.
"""

from __future__ import annotations

import asyncio
import sys
import tracemalloc
from collections.abc import Callable

import pytest

from streaming_api import framing
from streaming_api.app import build
from streaming_api.commands import ChatRequest
from streaming_api.config import StreamingConfig
from streaming_api.connection import Connection
from streaming_api.framing import Framing
from streaming_api.generation import Generation
from streaming_api.upstreams.answer import AnswerReader
from streaming_api.upstreams.call import Call
from streaming_api.upstreams.connector import Connector
from streaming_api.upstreams.endpoint import Endpoint
from streaming_api.upstreams.http1 import ResponseStream
from streaming_api.web.context import Context

GROWTH = 1.2

CHUNK = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1700000000,"model":"m",'
    b'"choices":[{"index":0,"delta":{"content":"word "},"finish_reason":null}]}\n\n'
)
READ = b"%x\r\n%b\r\n" % (len(CHUNK), CHUNK)
HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
)


class CountingTransport(asyncio.Transport):
    """Takes everything at once, as a kernel with room does."""

    def __init__(self) -> None:
        super().__init__()
        self.writes = 0

    def write(self, data: object) -> None:  # noqa: ARG002 (they are only counted)
        self.writes += 1

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return False


class Watching(Connection):
    kind = "websocket"


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


@pytest.fixture
def context() -> Context:
    return build(
        StreamingConfig(embedded_model="none", flush_interval=0, chat_retention_messages=10**6)
    )


def watching(context: Context, kind: Framing) -> Watching:
    client = context.doors.client(None, "127.0.0.1")
    connection = Watching(context.manager, client, kind, "/")
    connection.transport = CountingTransport()
    return connection


def relay(context: Context, kind: Framing) -> tuple[ResponseStream, CountingTransport]:
    """The reading half of an upstream's connection, and the transport of the answer's viewer."""
    connection = watching(context, kind)
    answer = context.chat.start(ChatRequest("r", "m", {"messages": []}), connection.client)
    answer.watch(connection, 0)
    assert isinstance(answer, Generation)
    call = Call(
        Connector(Endpoint.parse("http://127.0.0.1:1"), None, 1, 300),
        b"",
        AnswerReader(2**20, usage_asked=False),
        answer._chunks,
        streamed=True,
        max_body=2**20,
    )
    stream = ResponseStream(asyncio.get_running_loop(), b"", call, 300)
    stream.data_received(HEAD + READ)
    transport = connection.transport
    assert isinstance(transport, CountingTransport)
    return stream, transport


@pytest.mark.parametrize(
    ("kind", "tokens", "most"),
    [
        (framing.WEBSOCKET, 1, 89),
        (framing.CHUNKED_EVENTS, 1, 89),
        (framing.CHUNKED_OPENAI, 1, 90),
        (framing.WEBSOCKET, 50, 30),
        (framing.CHUNKED_EVENTS, 50, 30),
    ],
    ids=lambda value: getattr(value, "name", str(value)),
)
async def test_relaying_a_token_makes_so_many_calls(
    context: Context, kind: Framing, tokens: int, most: int
) -> None:
    """One token a read, as an answer at human speed comes; and many, as a burst comes."""
    stream, transport = relay(context, kind)
    read = READ * tokens
    stream.data_received(read)
    before = transport.writes

    def reads() -> None:
        for _ in range(20):
            stream.data_received(read)

    calls = counted(reads) / 20 / tokens
    assert transport.writes - before == 20, "one write a read, however many tokens it brought"
    assert calls <= most * GROWTH


async def test_a_delivery_makes_two_calls_and_keeps_nothing(context: Context) -> None:
    """A write, and the question whether the kernel took it."""
    line = context.topics.line
    viewers = 1_000
    for _ in range(viewers):
        context.topics.watch(watching(context, framing.WEBSOCKET), ("status",), None)
    stream = line.streams["status"]
    data = (b'{"event":"changed"}',)
    line.append(stream, data, urgent=True)
    calls = counted(lambda: line.append(stream, data, urgent=True)) / viewers
    assert calls <= 2.1 * GROWTH

    tracemalloc.start()
    try:
        line.append(stream, data, urgent=True)
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(50):
            line.append(stream, data, urgent=True)
        kept = (tracemalloc.get_traced_memory()[0] - before) / 50
    finally:
        tracemalloc.stop()
    assert kept <= 450 * GROWTH, "bytes a message, and none a viewer"
