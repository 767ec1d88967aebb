"""One request at a time: aiohttp's parser is fed to the last byte of a request and no further.

The rule of a request's life on a connection: *each request gets exactly its own reply, in order, or
the connection ends.* aiohttp's parser reads ahead: it may hold whole requests and half of one when
a transport is taken over, and it drops what follows an ``Upgrade`` that it does not know. So it is
fed one request; what follows stays here as bytes, up to a bound, until that request has been
answered. Then the next one is fed, or whoever has taken the transport over gets the bytes.

No framing is read here, for two readers of one request may differ (request smuggling): the parser
says where a request ends. A head, or a body in chunks, can only end at an empty line, so the parser
is asked after each of those; a body of known length is counted. Both are work for every few bytes,
if a client wants it so, and are done in turns.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final, cast

from aiohttp import hdrs, web
from aiohttp.http import HttpVersion10, HttpVersion11, RawRequestMessage
from aiohttp.http_exceptions import BadHttpMessage
from aiohttp.streams import EMPTY_PAYLOAD
from aiohttp.web_protocol import RequestPayloadError, _ErrInfo
from multidict import CIMultiDict, CIMultiDictProxy

from streaming_api.errors import ExpectationFailed
from streaming_api.web.request_task import RequestTask

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from aiohttp.streams import StreamReader

    from streaming_api.connections.turns import Turns

MOST_BEHIND: Final = 65_536
"""Bytes after a request that are held until it is answered; above that the client has to wait."""
TURN_PIECES: Final = 64
TURN_BYTES: Final = 16 * 2**10
"""What is fed of heads and chunks in one turn: pieces, and bytes (chunks of one, perhaps)."""
_EMPTY_LINE: Final = b"\r\n\r\n"
_EDGE: Final = len(_EMPTY_LINE) - 1
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


class _Stage(enum.IntEnum):
    """How much of a request the parser has been fed."""

    HEAD = enum.auto()
    LENGTH = enum.auto()
    CHUNKS = enum.auto()
    WHOLE = enum.auto()
    OVER = enum.auto()  # nothing more is read on this connection


_READING: Final = frozenset({_Stage.HEAD, _Stage.LENGTH, _Stage.CHUNKS})
_DELIMITED: Final = frozenset({_Stage.HEAD, _Stage.CHUNKS})
_SPOKEN: Final = frozenset({HttpVersion10, HttpVersion11})


class OneRequest(RequestTask):
    """aiohttp's protocol, shown one request at a time."""

    __slots__ = (
        "_answered",
        "_behind",
        "_body",
        "_edge",
        "_last",
        "_missing",
        "_stage",
        "_turns",
        "_waits",
        "ended",
        "expected",
        "on_ended",
    )  # fmt: skip

    _body: StreamReader
    ended: bool
    """Whether the client has said that it will send nothing more."""
    on_ended: Callable[[], object] | None
    """Called when the client says so; for a handler whose work is then in vain."""
    expected: str
    """The ``Expect`` of the current request, before its body is sent (RFC 9110 section 10.1.1)."""

    def _start_reading(self, turns: Turns) -> None:
        """Wait for the first request; what takes more than a turn goes on in one of these."""
        self._turns = turns
        self._waits = False  # for its turn
        self._stage = _Stage.HEAD
        self._missing = 0  # bytes of a body of known length
        self._behind = b""  # received, but not fed yet
        self._edge = b""  # the last bytes fed: an empty line may be split anywhere
        self._answered = False  # the current request has its reply
        self._last = False  # there is no next request
        self.ended = False
        self.on_ended = None
        self.expected = ""

    # From the client

    def data_received(self, data: bytes) -> None:
        """Take the client's bytes; none if aiohttp reads on, whose parser may hold some back."""
        if not data:
            self._feed(b"")
        elif self._stage is _Stage.OVER:
            return
        self._behind += data
        self._read()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Note that the connection is gone; whoever reads the body is told."""
        super().connection_lost(exc)
        self._body = EMPTY_PAYLOAD  # as in `_feed`

    def eof_received(self) -> bool:  # type: ignore[override]  # asyncio's says bool | None
        """Note that the client sends nothing more; answer what it asked (``nc -N``), then close.

        TLS has no half-closed connections: there this closes the connection.
        """
        self.ended = True
        if self.on_ended is not None:
            self.on_ended()
        return self._is_asked and self.ssl_context is None

    @property
    def _is_asked(self) -> bool:
        """Whether there is a whole request to answer, or bytes to read one from."""
        return self._stage not in _READING or bool(self._behind)

    def continue_body(self) -> None:
        """Ask for the body of the current request, if its client waits to be asked."""
        if self.expected and self._stage in _READING and self.transport is not None:
            self.transport.write(_CONTINUE)
        self.expected = ""

    def take_behind(self) -> bytes:
        """Return the bytes that followed the request, for whoever takes the transport over."""
        behind, self._behind = self._behind, b""
        self._stage = _Stage.OVER
        return behind

    def _read(self) -> None:
        """Feed the bytes that belong to the current request, as many as one turn may take."""
        data, at = self._edge + self._behind, len(self._edge)
        most, pieces = at + TURN_BYTES, TURN_PIECES
        while (
            at < len(data) and self._stage in _READING and not (self._reading_paused or self._waits)
        ):
            if self._close or self._force_close:
                self._stage = _Stage.OVER
                break
            if self._stage is _Stage.LENGTH:
                end = min(len(data), at + self._missing)
            elif at >= most or not pieces:
                self._waits = True
                self._turns.later(self._read_on)
                break
            else:
                empty_line = data.find(_EMPTY_LINE, max(at - _EDGE, 0), most)
                end = min(len(data), most) if empty_line < 0 else empty_line + len(_EMPTY_LINE)
                pieces -= 1
            self._feed(data[at:end])
            at = end
        delimited = self._stage in _DELIMITED
        self._edge = data[max(at - _EDGE, 0) : at] if delimited else b""
        self._behind = b"" if self._stage is _Stage.OVER else data[at:]
        if len(self._behind) > MOST_BEHIND:
            if not self._buffer_paused:
                self._pause_reading_for_buffer()
        elif self._buffer_paused:
            self._resume_reading_for_buffer()
        if self.ended and not self._is_asked and self.transport is not None:
            self.transport.close()

    def _read_on(self) -> None:
        """Go on: it is this connection's turn."""
        self._waits = False
        if self.transport is not None:
            self._read()

    def resume_reading(self, resume_parser: bool = True) -> None:  # noqa: FBT001, FBT002 (aiohttp's)
        """Read on; nothing to do, not even for the parser, where reading was not paused."""
        if self._reading_paused:
            super().resume_reading(resume_parser)

    async def _pause(self) -> None:
        """Wait for a turn."""
        await self._turns.pause()

    def _resume_reading_if_drained(self) -> None:
        """Do nothing: aiohttp asks when it takes a request up; `_read` knows when there is room."""

    def _feed(self, piece: bytes) -> None:
        """Feed a piece of one request, and ask the parser how far that request is."""
        count = self._request_count
        super().data_received(piece)
        parsed = self._request_count > count
        if self._stage is _Stage.HEAD:
            if parsed:
                self._begun()
                self.take_up()
        elif self._stage in _READING:
            if self._stage is _Stage.LENGTH:
                self._missing -= len(piece)
            if parsed:  # an error in the body: not a request, so it gets no reply of its own
                _forget_frames(self._messages.pop()[0])
                self._break_body()
            if self._stage is _Stage.OVER or self._body.exception() is not None:
                self._stage = _Stage.OVER
            elif self._body.is_eof():
                self._stage = _Stage.WHOLE
                self._next()
            if self._stage not in _READING:
                self._body = EMPTY_PAYLOAD  # a body refers to its protocol: one cycle less

    def _break_body(self) -> None:
        """Report to whoever reads the body that the rest of it cannot be read."""
        self._stage = _Stage.OVER
        if self._answered:  # it was only being discarded
            self._body.feed_eof()
            self.close()
        else:
            self._body.set_exception(RequestPayloadError("The body is no HTTP."))

    def _begun(self) -> None:
        """Note that a head has been read, or cannot be read."""
        message, body = self._messages[-1]
        if isinstance(message, RawRequestMessage) and message.version not in _SPOKEN:
            message = _ErrInfo(400, BadHttpMessage("another version"), "another version")
            self._messages[-1] = (message, body)
        if not isinstance(message, RawRequestMessage):  # an error: nothing is read after it
            _forget_frames(message)
            self._stage = _Stage.OVER
            return
        message, self.expected = _expectation(_plain(message))
        self._messages[-1] = (message, body)
        self._answered = False
        if body.is_eof():
            self._stage = _Stage.WHOLE
            return
        self._body = body
        if message.chunked:
            self._stage = _Stage.CHUNKS
        else:
            self._missing = int(message.headers[hdrs.CONTENT_LENGTH])
            self._stage = _Stage.LENGTH

    # To the client

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send the reply; then the next request may be read."""
        if self.expected and self._stage in _READING:  # nobody asked for the body: it may not come
            resp.force_close()
        resp, reset = await super().finish_response(request, resp, start_time)
        if self._stage is _Stage.OVER:
            if request.content.exception() is not None:
                request.content.feed_eof()  # nobody waits for the rest of a broken body
            self.close()
        elif self.transport is not None:
            self._answered = True
            self._last = reset or not resp.keep_alive
            self._next()
            self._read()
        return resp, reset

    def _next(self) -> None:
        """Decide what follows a request that has been read to its end and answered."""
        if self._stage is _Stage.WHOLE and self._answered:
            self._stage = _Stage.OVER if self._last else _Stage.HEAD


def _forget_frames(message: RawRequestMessage | _ErrInfo) -> None:
    """Let go of the frames that an error came through: they keep it, and the connection."""
    if isinstance(message, _ErrInfo):
        message.exc.__traceback__ = None


def _plain(message: RawRequestMessage) -> RawRequestMessage:
    """Return a request's head as handlers may read it.

    Several lines of one name are joined into one list (RFC 9110 section 5.3); a field that is not a
    list becomes nonsense by that, and is refused as such. And what follows a request for another
    protocol is never taken for a request: the reply closes the connection, unless it is the reply
    that changes the protocol.
    """
    headers = message.headers
    names = dict.fromkeys(headers)
    if len(names) < len(headers):
        joined = CIMultiDict((name, ", ".join(headers.getall(name))) for name in names)
        message = message._replace(headers=CIMultiDictProxy(joined))
    if message.upgrade or hdrs.UPGRADE in headers:
        message = message._replace(should_close=True)
    return message


def _expectation(message: RawRequestMessage) -> tuple[RawRequestMessage, str]:
    """Split ``Expect`` off a head: aiohttp would ask for bodies that nobody wants."""
    expected = message.headers.get(hdrs.EXPECT)
    if expected is None:
        return message, ""
    headers = CIMultiDict(message.headers)
    del headers[hdrs.EXPECT]
    message = message._replace(headers=CIMultiDictProxy(headers))
    return message, expected.lower() if message.version >= HttpVersion11 else ""


def check_expectation(request: web.BaseRequest) -> None:
    """Check that the client's expectation can be met.

    Raises:
        ExpectationFailed: it cannot be met.
    """
    expected = cast("OneRequest", request.protocol).expected
    if expected and {member.strip() for member in expected.split(",")} != {"100-continue"}:
        message = "The one expectation that can be met is 100-continue."
        raise ExpectationFailed(message, "expectation_failed")


def listed(headers: Mapping[str, str], name: str) -> list[str]:
    """Return the members of a list of tokens (RFC 9110 section 5.6.1)."""
    return [member.strip() for member in headers.get(name, "").split(",")]
