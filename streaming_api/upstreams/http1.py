"""One HTTP/1.1 request on a connection, its response pushed; knows nothing of chat.

Bytes go from `data_received` through httptools to the receiver in one call stack: no task, no
future and no queue per read. The receiver hears of one response: `head_received` at most once,
`body_received` at most once per read, `ended` exactly once unless the exchange was aborted.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable
from typing import Final, Protocol, cast

import httptools

MAX_HEAD: Final = 65_536  # bytes of headers, and of anything else that brings the body no further
LINGER: Final = 0.25  # seconds an answer that is complete may take to end its connection

REQUEST_TIMEOUT: Final = 408  # no request has come; on a kept connection, that one is too late
FIRST_FINAL_STATUS: Final = 200  # below it a response is interim, and another one follows


class ResponseEnd(enum.Enum):
    """How a response ended."""

    COMPLETE = "complete"  # by the protocol's rules
    CUT = "cut"  # the connection was closed in the middle
    RESET = "reset"  # the connection broke
    MALFORMED = "malformed"  # it is not HTTP/1.1
    HEAD_TOO_LARGE = "head_too_large"
    SILENT = "silent"  # no byte for the silence timeout


class Head:
    """Status and headers of a response.

    Attributes:
        lines: name, in lower case, and value of each header, in the order in which they came.
        headers: the same by name, the last of repeated ones.
    """

    __slots__ = ("headers", "lines", "status")

    def __init__(self, status: int, lines: list[tuple[str, str]]) -> None:
        self.status = status
        self.lines = lines
        self.headers = dict(lines)

    @property
    def content_type(self) -> str:
        """The media type alone, in lower case, "" if there is none."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    @property
    def is_delimited(self) -> bool:
        """Whether the body says where it ends, so that an early end of file is a cut."""
        coding = self.headers.get("transfer-encoding", "").lower()
        return "chunked" in coding or "content-length" in self.headers


class Receiver(Protocol):
    """Whoever wants the response. It must not raise."""

    def head_received(self, head: Head) -> None:
        """Take the final response's head; interim (1xx) ones are skipped."""

    def body_received(self, data: bytes) -> None:
        """Take all body bytes of one read, joined."""

    def ended(self, outcome: ResponseEnd, detail: str) -> None:
        """Take the response's end; `detail` says more where it ended badly."""


class ResponseProtocol:
    """The client's side of one connection: writes `request`, pushes the response.

    A protocol as `asyncio.Protocol` describes one, without being its subclass (see `Connection`).

    It is also what httptools calls. `on_body` is the list's own `append`, so that a chunk of the
    body costs no Python frame.

    Attributes:
        answered: whether a byte has been received.
        body_pending: whether more of the request's body is to come; if the response is complete
            before that, no other request may follow, for it would be taken for the rest.
        on_closed: called when it has no connection any more.
        on_reusable: given the connection of a complete response if another request may follow on
            it; without it, and otherwise, the connection is closed.
        on_writable: called with whether the transport takes more of a request's body.
    """

    __slots__ = (
        "_fruitless",
        "_head",
        "_head_reported",
        "_headers",
        "_headers_size",
        "_is_complete",
        "_is_over",
        "_is_paused",
        "_is_reusable",
        "_last_read",
        "_loop",
        "_parser",
        "_pieces",
        "_receiver",
        "_request",
        "_silence_timeout",
        "_timer",
        "_transport",
        "answered",
        "body_pending",
        "on_body",
        "on_closed",
        "on_reusable",
        "on_writable",
    )

    on_body: Callable[[bytes], None]

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        request: bytes,
        receiver: Receiver,
        silence_timeout: float,
    ) -> None:
        """Prepare an exchange; it starts when a transport connects.

        Args:
            loop: the running one.
            request: head and body, complete.
            receiver: hears of the response.
            silence_timeout: seconds without a byte, while not paused, after which it ends SILENT.
        """
        self._loop = loop
        self._request = request
        self._receiver: Receiver | None = receiver
        self._silence_timeout = silence_timeout
        self._pieces: list[bytes] = []
        self.on_body = self._pieces.append
        self._parser: httptools.HttpResponseParser | None = httptools.HttpResponseParser(self)
        self._headers: list[tuple[str, str]] = []
        self._headers_size = 0
        self._fruitless = 0  # bytes read since the body last grew
        self._head: Head | None = None
        self._head_reported = False
        self._is_complete = False  # the message has ended by HTTP's rules
        self._is_reusable = False  # and another may follow on the connection
        self.answered = False
        self.body_pending = False
        self._is_over = False  # the receiver knows of the end, or does not want to
        self._is_paused = False
        self._last_read = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport | None = None
        self.on_closed: Callable[[ResponseProtocol], None] | None = None
        self.on_reusable: Callable[[asyncio.Transport], None] | None = None
        self.on_writable: Callable[[bool], None] | None = None

    # What the owner may call.

    def pause_reading(self) -> None:
        """Let the kernel's buffer, then the upstream, hold what comes; stop the clock."""
        self._is_paused = True
        self._pause_if_wanted()

    def resume_reading(self) -> None:
        """Undo `pause_reading`; the clock of silence starts anew."""
        if not self._is_paused:
            return
        self._is_paused = False
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()
            self._last_read = self._loop.time()
            self._watch_silence()

    def send(self, data: bytes) -> None:
        """Write more of the request's body; the clock of silence starts anew."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)
            self._last_read = self._loop.time()

    def pause_writing(self) -> None:
        """Note that the transport holds enough of the request."""
        if self.on_writable is not None:
            self.on_writable(False)  # noqa: FBT003 (the one thing that it says)

    def resume_writing(self) -> None:
        """Note that the transport takes more of the request."""
        if self.on_writable is not None:
            self.on_writable(True)  # noqa: FBT003 (the one thing that it says)

    def abort(self) -> None:
        """Close the connection now without notifying the receiver; at any time, even twice."""
        self._is_over = True
        self._stop()
        if self._transport is not None:
            self._transport.abort()

    def give_up(self, why: str) -> None:
        """Close the connection now and notify the receiver that it was cut."""
        self._end(ResponseEnd.CUT, why)

    def linger(self) -> None:
        """Notify the receiver no more, but let the upstream finish within `LINGER` seconds.

        Servers take a close before the last chunk for a client that left, and log it so.
        """
        self._is_over = True
        self._receiver = None
        if self._is_complete or self._transport is None or self._transport.is_closing():
            self._retire()
            return
        self._cancel_timer()
        self._timer = self._loop.call_later(LINGER, self.abort)
        if self._is_paused:
            self._transport.resume_reading()

    # What the transport calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the request, unless the owner has gone meanwhile."""
        self._transport = cast(asyncio.Transport, transport)
        if self._is_over:
            self._transport.abort()
            return
        self._transport.write(self._request)
        self._request = b""
        self._last_read = self._loop.time()
        if self._is_paused:  # uvloop starts to read after this call, so pause after that
            self._loop.call_soon(self._pause_if_wanted)
        else:
            self._watch_silence()

    def data_received(self, data: bytes) -> None:
        """Parse one read and push what it holds."""
        parser = self._parser
        if parser is None:
            return
        self._last_read = self._loop.time()
        self.answered = True
        self._fruitless += len(data)
        malformed = ""
        try:
            parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as exc:
            malformed = _reason(exc)
        if self._headers_size > MAX_HEAD:
            self._end(ResponseEnd.HEAD_TOO_LARGE, f"headers above {MAX_HEAD} bytes")
            return
        if not self._head_reported:
            self._report_head()
        pieces = self._pieces
        if pieces:
            body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            pieces.clear()
            self._fruitless = 0
            if self._receiver is not None:
                self._receiver.body_received(body)
        if self._is_complete:
            self._is_reusable = self._is_reusable and not malformed
            self._end(ResponseEnd.COMPLETE)
        elif malformed:
            self._end(ResponseEnd.MALFORMED, malformed)
        elif self._fruitless > MAX_HEAD:
            self._end(ResponseEnd.HEAD_TOO_LARGE, f"headers above {MAX_HEAD} bytes")

    def eof_received(self) -> None:
        """Do nothing: the transport closes itself, and then reports it."""

    def connection_lost(self, exc: Exception | None) -> None:
        """Take the end of file or a broken connection, unless we closed it."""
        if not self._is_over:
            if exc is not None:
                self._end(ResponseEnd.RESET, str(exc) or type(exc).__name__)
            elif self._head is None or self._head.is_delimited:
                self._end(
                    ResponseEnd.CUT, "the connection was closed before the response was complete"
                )
            else:
                self._end(ResponseEnd.COMPLETE)
        self._stop()
        if self.on_closed is not None:
            self.on_closed(self)

    # What httptools calls.

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header, or count and drop a trailer."""
        self._headers_size += len(name) + len(value) + 4
        if self._head is None and self._headers_size <= MAX_HEAD:
            self._headers.append((name.decode("latin-1").lower(), _text_of(value)))

    def on_headers_complete(self) -> None:
        """Keep the head of the final response; forget an interim one (RFC 9110, 15.2)."""
        status = self._parser.get_status_code() if self._parser is not None else 0
        if status >= FIRST_FINAL_STATUS and self._head is None:
            self._head = Head(status, self._headers)
        self._headers = []

    def on_message_begin(self) -> None:
        """Begin a response; one after the final one answers nothing that was asked."""
        if self._is_complete:
            self._is_reusable = False

    def on_message_complete(self) -> None:
        """End at the end of the final response, whatever the upstream sends after it."""
        if self._head is not None and not self._is_complete:
            self._is_complete = True
            self._is_reusable = self._parser is not None and self._parser.should_keep_alive()
            self._pieces = self._pieces.copy()  # on_body goes on into the old list

    # Inside.

    def _report_head(self) -> None:
        if self._head is not None:
            self._head_reported = True
            if self._receiver is not None:
                self._receiver.head_received(self._head)

    def _pause_if_wanted(self) -> None:
        if self._is_paused and self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def _end(self, outcome: ResponseEnd, detail: str = "") -> None:
        """Let go of the connection and notify the receiver once."""
        receiver = self._receiver
        notify = not self._is_over
        if outcome is ResponseEnd.COMPLETE:
            self._retire()
        else:
            self.abort()
        if notify and receiver is not None:
            receiver.ended(outcome, detail)

    def _retire(self) -> None:
        """Hand the connection on if another request may follow on it, else close it."""
        transport, reusable = self._transport, self._is_reusable and self.on_reusable
        if (
            not reusable
            or transport is None
            or transport.is_closing()
            or self.body_pending
            or transport.get_write_buffer_size()  # of a request that was answered before its end
        ):
            self.abort()
            return
        self._is_over = True
        self._transport = None
        if self._is_paused:
            transport.resume_reading()
        reusable(transport)
        self._stop()
        if self.on_closed is not None:
            self.on_closed(self)

    def _stop(self) -> None:
        """Drop references to others, so that nothing waits for the garbage collector."""
        self._receiver = None
        self._parser = None
        self.on_writable = None
        self.on_body = _forget  # its list has the last read's pieces: what has ended stays a while
        self._cancel_timer()

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _watch_silence(self) -> None:
        """Arm the one timer; reads only note the time, which the timer checks when it fires."""
        if self._timer is None:
            deadline = self._last_read + self._silence_timeout
            self._timer = self._loop.call_at(deadline, self._check_silence)

    def _check_silence(self) -> None:
        self._timer = None
        if self._is_paused or self._is_over:
            return
        if self._loop.time() >= self._last_read + self._silence_timeout:
            self._end(ResponseEnd.SILENT, f"no byte for {self._silence_timeout:g} seconds")
        else:
            self._watch_silence()


def _text_of(value: bytes) -> str:
    """Return a header's value, which is UTF-8 or, in old servers, Latin-1 (RFC 9110, 5.5)."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def _forget(piece: bytes) -> None:
    """Take a piece of a body that nobody wants."""


def _reason(exc: Exception) -> str:
    """Return what is wrong with a response, in httptools' own words."""
    if isinstance(exc, httptools.HttpParserUpgrade):
        return "a switch to another protocol"
    return str(exc) or type(exc).__name__
