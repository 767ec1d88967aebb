"""The hot path without sockets: from the bytes of an upstream to the bytes for a viewer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from streaming_api.answers.answer import Answer
from streaming_api.app import build
from streaming_api.config import StreamingConfig
from streaming_api.connections.connection import Connection
from streaming_api.faces.derived import Derived
from streaming_api.faces.framing import CHUNKED_RESPONSES, CHUNKED_UI_MESSAGES
from streaming_api.faces.responses import ResponseTranslator
from streaming_api.faces.translator import Translator
from streaming_api.faces.ui_messages import UiMessageTranslator
from streaming_api.ops.context import Context
from streaming_api.upstreams.answer import AnswerReader
from streaming_api.upstreams.connections import Connections
from streaming_api.upstreams.endpoint import Endpoint
from streaming_api.upstreams.exchange import Exchange
from streaming_api.upstreams.http1 import ResponseProtocol
from streaming_api.upstreams.question import Question
from streaming_api.wire import framing
from streaming_api.wire.commands import ChatRequest
from streaming_api.wire.framing import Framing

_CHUNK: Final = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1700000000,"model":"m",'
    b'"choices":[{"index":0,"delta":{"content":"word "},"finish_reason":null}]}\n\n'
)
READ: Final = b"%x\r\n%b\r\n" % (len(_CHUNK), _CHUNK)
"""One token, as it comes from the upstream."""
_HEAD: Final = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
)

FACES: Final[dict[str, tuple[Callable[[], Translator], Framing]]] = {
    "responses": (
        lambda: ResponseTranslator({"id": "resp_r", "created_at": 1, "model": "m"}, "r"),
        CHUNKED_RESPONSES,
    ),
    "ui-messages": (lambda: UiMessageTranslator("r"), CHUNKED_UI_MESSAGES),
}
"""Other wires, by the name of the face."""


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

    def abort(self) -> None:
        """Do nothing: there is no connection."""


class Watching(Connection):
    """A connection of any framing."""

    kind = "websocket"


def context() -> Context:
    """Everything that the server is made of, with room for a million tokens."""
    return build(
        StreamingConfig(embedded_model="none", flush_interval=0, chat_retention_messages=10**6)
    )


def watching(context: Context, kind: Framing) -> Watching:
    """A connection that a viewer can be shown on."""
    client = context.access.client(None, "127.0.0.1")
    connection = Watching(context.manager, client, kind, "/")
    connection.transport = CountingTransport()
    return connection


def relay(
    context: Context, kind: Framing, request_id: str = "r"
) -> tuple[ResponseProtocol, CountingTransport]:
    """The reading half of an upstream's connection, and the transport of the answer's viewer."""
    connection = watching(context, kind)
    answer = context.answers.start(
        ChatRequest(request_id, "m", b'{"messages":[]}'), connection.client
    )
    answer.watch(connection, 0)
    assert isinstance(answer, Answer)
    exchange = Exchange(
        Connections(Endpoint.parse("http://127.0.0.1:1")),
        Question("", bytes, lambda: AnswerReader(2**20, usage_asked=False), 2**20, streamed=True),
        b"",
        answer._chunks,
    )
    stream = ResponseProtocol(asyncio.get_running_loop(), b"", exchange, 300)
    stream.data_received(_HEAD + READ)
    transport = connection.transport
    assert isinstance(transport, CountingTransport)
    return stream, transport


def derived(context: Context, face: str) -> tuple[ResponseProtocol, CountingTransport]:
    """The same of an answer that is shown on another wire."""
    stream, _ = relay(context, framing.WEBSOCKET, face)
    answer = context.answers.local(("", face))
    assert answer is not None
    for viewer in answer.channel.viewers():
        viewer.leave()
    translator, kind = FACES[face]
    shown = Derived(answer, face, translator())
    connection = watching(context, kind)
    shown.attach(connection).catch_up()
    transport = connection.transport
    assert isinstance(transport, CountingTransport)
    return stream, transport
