"""WebSocket: one connection's protocol, and its commands.

RFC 6455 and RFC 7692. After the handshake the transport belongs to a `WebSocket`; deliveries go
straight to it from the streams, and the client's frames come to `data_received`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, ClassVar, Final

from aiohttp import web

from streaming_api.access.rates import Bucket
from streaming_api.answers.elsewhere import Elsewhere
from streaming_api.connections.connection import Connection
from streaming_api.connections.endings import CloseReason
from streaming_api.connections.turns import TURN_BYTES
from streaming_api.errors import ApiError, BadRequest, TooMany
from streaming_api.ops.context import CONTEXT, client_of, route_of
from streaming_api.web.command_handler import CommandHandler
from streaming_api.web.guard import ANY, scope
from streaming_api.web.handshake import open_socket
from streaming_api.web.takeover import TAKEN
from streaming_api.wire import framing
from streaming_api.wire.commands import ChatRequest, message_type_of, parse_command
from streaming_api.wire.deflate import Deflate
from streaming_api.wire.frame_parser import (
    INVALID_TEXT,
    NORMAL,
    POLICY,
    PROTOCOL_ERROR,
    TOO_BIG,
    FrameParser,
    Violation,
)
from streaming_api.wire.messages import notice
from streaming_api.wire.objects import parse_object, parsed_bytes

if TYPE_CHECKING:
    from streaming_api.access.client import Client
    from streaming_api.connections.manager import ConnectionManager
    from streaming_api.engine.sink import Watcher
    from streaming_api.wire.frame_parser import Received

_CLOSES: Final = {
    CloseReason.IDLE: (1000, "idle"),
    CloseReason.GOING_AWAY: (1001, "going away"),
    CloseReason.MEMORY: (1013, "the server is short of memory; connect again later"),
    CloseReason.POLICY: (1008, "this key is no longer valid here"),
    CloseReason.NO_COMMAND: (1008, "no command in time"),
    CloseReason.ERROR: (1011, "server error"),
    CloseReason.DRAINED: (1012, "the server restarts; connect again"),
    CloseReason.TOO_SLOW: (1013, "too slow for a lossless stream; connect again and resume"),
}
_VIOLATIONS: Final = {
    INVALID_TEXT: CloseReason.BAD_TEXT,
    POLICY: CloseReason.POLICY,
    PROTOCOL_ERROR: CloseReason.PROTOCOL_ERROR,
    TOO_BIG: CloseReason.TOO_BIG,
}
_CLOSE_TIMEOUT: Final = 5.0
"""Seconds a client has to answer a close frame before its connection is dropped."""
_LINGER: Final = 1.0
"""Seconds that a client that broke the protocol has to read the close frame."""
TURN_FRAMES: Final = 64
"""Frames that are read from one connection in one turn of the loop; see also `TURN_BYTES`."""
TURN_STARTS: Final = 8
"""Answers that are started for one connection in one turn: each is work for many turns more."""
CHOKED_BYTES: Final = 256 * 2**10
"""Unsent bytes above which nothing more is read from a client that does not read either."""
_FRAMES: Final = 8
"""Frames a second for each command that a client may send; fragments, pings and pongs count."""


class WebSocket(Connection):
    """One client on a WebSocket."""

    kind: ClassVar[str] = "websocket"
    comes_back: ClassVar[bool] = True

    __slots__ = (
        "_choked", "_closing_since", "_commands", "_deaf", "_frames", "_large", "_parser",
        "_pinged", "_pings", "_refusals", "_starts", "_waiting",
    )  # fmt: skip

    def __init__(
        self,
        manager: ConnectionManager,
        client: Client,
        path: str,
        deflate: Deflate | None,
        command_handler: CommandHandler,
        message_limit: int | None = None,
    ) -> None:
        """Take over a connection.

        Args:
            manager: of all connections.
            client: who it is.
            path: the route.
            deflate: what was agreed on compression; None for none.
            command_handler: does what commands say.
            message_limit: bytes that a message may have; None for ``message_size_limit``.
        """
        config = manager.config
        kind = framing.WEBSOCKET
        if deflate is not None:
            kind = framing.DEFLATED_WEBSOCKET[deflate.server_bits]
            if deflate.server_takeover and deflate.server_bits == 15:
                kind = framing.WINDOWED_WEBSOCKET
        super().__init__(manager, client, kind, path)
        limit = config.message_size_limit if message_limit is None else message_limit
        self._parser = FrameParser(limit, deflate=deflate is not None)
        self._commands = command_handler
        self._pings = Bucket(config.pings_per_second, 2 * config.pings_per_second)
        commands = config.commands_per_second
        self._refusals = Bucket(commands, 2 * commands)
        self._frames = Bucket(_FRAMES * commands, 2 * _FRAMES * commands)
        self._starts = 0  # of answers, in this turn
        self._waiting = False  # for its turn to read on, or for what a command needs
        self._large: Received | None = None  # a message that waits for a turn of its own
        self._choked = False  # not read, because the client does not read either
        self._pinged = False
        self._closing_since = 0.0
        self._deaf = False

    # From the client

    def data_received(self, data: bytes) -> None:
        """Take frames, whole or in pieces; who is sending a large one cannot send a pong."""
        self._pinged = False
        if self._waiting or self._choked:
            self._parser.keep(data)
        else:
            self._read(data)

    def _read(self, data: bytes) -> None:
        """Read as much as fits in one turn of the loop; the rest has its turn later."""
        if self._deaf or (self.ending is not None and not self._closing_since):
            return
        parser = self._parser
        self._starts = 0
        try:
            for received in parser.feed(data, TURN_FRAMES, TURN_BYTES):
                self._received(received)
                if self.transport.is_closing():
                    return
                if self._waiting or self._starts >= TURN_STARTS:  # for another process, its turn
                    break
        except Violation as violation:
            self._close(_VIOLATIONS[violation.code], violation.code, violation.reason)
            return
        if self._frames.take(parser.frames):
            self._close(CloseReason.POLICY, POLICY, "too many frames")
            return
        if not self._waiting:
            self._have_a_break()
        self._count_unread()
        if self._choked or self._waiting:
            self.transport.pause_reading()

    @property
    def unread(self) -> int:
        """Bytes that wait for the rest of their frame or message, or for their turn."""
        return self._parser.held + (0 if self._large is None else len(self._large.payload))

    def _count_unread(self) -> None:
        """Charge what is not a whole message yet; close if a large one finds no memory."""
        is_large = self.unread > TURN_BYTES
        if is_large or self.counted_input:
            self.count_memory()
            if is_large and self.share.over and not self.manager.budget.relieve(self.share, 0):
                self.close(CloseReason.MEMORY)

    def _have_a_break(self) -> None:
        """Leave the rest for later, if there is any and this turn has done enough."""
        if self.unsent > CHOKED_BYTES:
            self._choked = True
        elif (
            self._parser.unfinished
            or self._parser.inflated >= TURN_BYTES
            or self._starts >= TURN_STARTS
        ):
            self._waiting = True
            self.manager.turns.later(self._read_on)

    def _read_on(self) -> None:
        self._waiting = False
        if self.transport.is_closing():
            return
        self._read(b"")
        if not (self._waiting or self._choked):
            self.transport.resume_reading()

    def resume_writing(self) -> None:
        """Let the viewers catch up after a drain, and read from the client again."""
        super().resume_writing()
        if self._choked:
            self._choked = False
            self._waiting = True
            self.manager.turns.later(self._read_on)

    def _received(self, received: Received) -> None:
        self._pinged = False
        opcode = received.opcode
        if opcode == framing.CLOSE:
            self._closed_by_client(received.payload)
        elif self.ending is not None:
            return
        elif opcode == framing.PING:
            if self._pings.take():
                self._close(CloseReason.POLICY, POLICY, "too many pings")
                return
            self.write(framing.frame(received.payload, framing.PONG))
        elif opcode in {framing.TEXT, framing.BINARY}:
            self.received = time.monotonic()
            if len(received.payload) > TURN_BYTES:
                self._large = received
                self._waiting = True
                self.manager.turns.later(self._take_large)
            else:
                self.message(received)

    def _take_large(self) -> None:
        """Take a message that is work for more than a turn, in one of its own; then read on."""
        received, self._large = self._large, None
        assert received is not None
        self._waiting = False
        if self.ending is None and not self.transport.is_closing():
            self.message(received)
        if not self._waiting:
            self._read_on()

    def message(self, received: Received) -> None:
        """Take one whole message of the client: a command, which is counted before it is parsed."""
        fields: dict[str, object] = {}
        try:
            self.client.take_command(len(received.payload))
            if received.opcode != framing.TEXT:
                raise BadRequest("Send JSON in text frames, not binary.", "binary_frame")
            if len(received.payload) > TURN_BYTES:
                self.share.check(parsed_bytes(received.payload))
            fields = parse_object(received.payload)
        except ApiError as error:
            self._refuse(error, fields)
        else:
            self._run(fields, received.payload)

    def _refuse(self, error: ApiError, fields: dict[str, object]) -> None:
        if isinstance(error, TooMany) and self._refusals.take():
            self._close(CloseReason.POLICY, POLICY, "too many commands")
        else:
            self.send_error(error, fields)

    def _run(self, fields: dict[str, object], text: bytes) -> bool:
        """Run a command; return whether it is done. If not, reading stops: none may overtake it."""
        try:
            self.run(fields, text)
        except Elsewhere as elsewhere:
            self._waiting = True
            task = asyncio.ensure_future(elsewhere.arrive())
            task.add_done_callback(lambda done: self._arrived(done, fields, text))
            return False
        except ApiError as error:
            self._refuse(error, fields)
        return True

    def _arrived(self, done: asyncio.Future[None], fields: dict[str, object], text: bytes) -> None:
        """Run a command again now that what it needed is there, then what came after it."""
        error = done.exception()
        if self.ending is not None:
            return
        if isinstance(error, ApiError):
            self._refuse(error, fields)
        elif error is not None:
            raise error
        elif not self._run(fields, text):
            return
        self.manager.turns.later(self._read_on)

    def run(self, fields: dict[str, object], text: bytes) -> None:
        """Carry out a command.

        Raises:
            ApiError: the command fails; the client is sent this error.
        """
        command = parse_command(fields, text)
        self._starts += isinstance(command, ChatRequest)
        self._commands.run(self, command)

    def send_error(self, error: ApiError, fields: dict[str, object]) -> None:
        """Report an error about a command; the connection stays open."""
        self.manager.refused(error, self.client.address, self.client.owner)
        request_id = fields.get("request_id")
        if not isinstance(request_id, str) or len(request_id) > 128:
            request_id = None
        message_type = message_type_of(fields)
        self.send(
            notice(message_type, {"error": error.body()}, request_id=request_id), message_type
        )

    # Life and end

    def heartbeat(self, now: float) -> float:
        """Send a ping; drop a client from which nothing has come since the last one."""
        config = self.manager.config
        if self._closing_since:
            if now - self._closing_since >= _CLOSE_TIMEOUT:
                self.abort(self.ending or CloseReason.CLIENT)
            return now + _CLOSE_TIMEOUT
        next_ping = now + config.heartbeat_interval
        if not self.viewers and self.received == self.opened:  # it has not sent anything yet
            until = self.opened + config.timeout
            if now >= until:
                self.close(CloseReason.NO_COMMAND)
                return now + _CLOSE_TIMEOUT
            next_ping = min(next_ping, until)
        if self._pinged and not (self._choked or self._waiting):  # otherwise its pong may be unread
            self.abort(CloseReason.PING_TIMEOUT)
        elif now - self.opened >= config.heartbeat_interval / 2:  # otherwise it has just come
            self._pinged = True
            self.write(framing.frame(b"", framing.PING))
        return next_ping

    def close(self, ending: CloseReason) -> None:
        """Close with the code that stands for this ending."""
        code, reason = _CLOSES[ending]
        self._close(ending, code, reason)

    def _close(self, ending: CloseReason, code: int, reason: str) -> None:
        if self.ending is not None:
            return
        self.leave_all()
        self.ending = ending
        self._closing_since = time.monotonic()
        self.write(framing.close_frame(code, reason))
        if ending in _VIOLATIONS.values():
            self._hang_up()
        else:
            self.manager.heartbeat_at(self, self._closing_since + _CLOSE_TIMEOUT)

    def _hang_up(self) -> None:
        """Discard for a second what can no longer be understood, then drop the connection.

        Closing with unread bytes sends a reset, which could overtake the close frame.
        """
        self._deaf = True
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._closing_since -= _CLOSE_TIMEOUT - _LINGER
        self.manager.heartbeat_at(self, time.monotonic() + _LINGER)

    def _closed_by_client(self, payload: bytes) -> None:
        """Answer the client's close with its own code, or take it as the reply to ours."""
        if self.ending is None:
            self.ending = CloseReason.CLIENT
            self.leave_all()
            code = int.from_bytes(payload[:2], "big") if payload else NORMAL
            self.write(framing.close_frame(code))
        self.transport.close()

    def finished(self, viewer: Watcher) -> None:
        """Do nothing: an answer has ended, and the socket stays open for the next."""

    def eof_received(self) -> None:
        """Note that the client sends no more, although it has sent no close frame."""
        if self.ending is None:
            self.ending = CloseReason.CLIENT


def handler(
    *, chat_only: bool, make: type[WebSocket] = WebSocket
) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """Return the handler of one WebSocket path.

    Args:
        chat_only: whether the path serves answers and nothing else.
        make: makes the connection (conformance tests treat its messages differently).
    """

    @scope(ANY)
    async def websocket(request: web.Request) -> web.StreamResponse:
        context = request.app[CONTEXT]
        command_handler = CommandHandler(context, chat_only=chat_only)
        open_socket(
            request,
            lambda deflate: make(
                context.manager, client_of(request), route_of(request), deflate, command_handler
            ),
        )
        return TAKEN

    return websocket
