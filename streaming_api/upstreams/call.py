"""One request to an upstream, from connecting to its end; knows HTTP's ways to fail, not chat.

What a reply means is up to a `Reader`. Every fault of the upstream goes to `Reader.fail`; only
a fault of ours, in the callback, is raised.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

import attrs

from streaming_api.upstreams.answer import invalid
from streaming_api.upstreams.connector import Connector
from streaming_api.upstreams.http1 import Head, ResponseEnd, ResponseProtocol
from streaming_api.upstreams.http_faults import broken, redirected, unstreamed, wrong_type
from streaming_api.upstreams.inflate import ENCODINGS, Inflater
from streaming_api.upstreams.reply_errors import UpstreamFault, error_of_reply, fault
from streaming_api.upstreams.retry_after import retry_after

MAX_ERROR_BODY: Final = 65_536  # bytes of a refusal's body that are read
FIRST_REDIRECT: Final = 300
FIRST_REFUSAL: Final = 400


class Reader(Protocol):
    """Makes sense of a reply's body.

    Attributes:
        over: nothing that still comes matters.
        error: why it is over, if that is a fault.
    """

    over: bool
    error: UpstreamFault | None

    def read(self, data: bytes) -> list[bytes]:
        """Take bytes of an event stream; return what is to be passed on."""

    def read_whole(self, body: bytes) -> list[bytes]:
        """Take a complete JSON body; return what is to be passed on."""

    def fail(self, error: UpstreamFault) -> None:
        """It ends here, with this."""


class Call:
    """The receiver of one response; `run` returns when the reader has its end."""

    __slots__ = (
        "_collected",
        "_connector",
        "_done",
        "_head",
        "_inflater",
        "_is_paused",
        "_max_body",
        "_on_chunks",
        "_reader",
        "_request",
        "_stream",
        "_streamed",
    )

    def __init__(
        self,
        connector: Connector,
        request: bytes,
        reader: Reader,
        on_chunks: Callable[[list[bytes]], None],
        *,
        streamed: bool,
        max_body: int,
    ) -> None:
        self._connector = connector
        self._request = request
        self._reader = reader
        self._on_chunks = on_chunks
        self._streamed = streamed
        self._max_body = max_body
        self._head: Head | None = None
        self._collected: bytearray | None = None  # a body that is read whole; None for a stream
        self._inflater: Inflater | None = None
        self._stream: ResponseProtocol | None = None
        self._done: asyncio.Future[None] | None = None
        self._is_paused = False

    async def run(self) -> None:
        """Ask, and read the reply to its end.

        Cancellation aborts the connection at once, also one that is not made yet.
        """
        loop = asyncio.get_running_loop()
        self._done = loop.create_future()
        stream = ResponseProtocol(loop, self._request, self, self._connector.silence_timeout)
        self._stream = stream
        self._request = b""
        if self._is_paused:
            stream.pause_reading()
        try:
            error = await self._connector.connect(stream)
            if error is not None:
                self._reader.fail(error)
                stream.abort()
                return
            await self._done
        except BaseException:
            stream.abort()
            raise
        stream.linger()

    def pause_reading(self) -> None:
        """Stop reading from the socket, so that the upstream has to wait."""
        self._is_paused = True
        if self._stream is not None:
            self._stream.pause_reading()

    def resume_reading(self) -> None:
        """Undo `pause_reading`."""
        self._is_paused = False
        if self._stream is not None:
            self._stream.resume_reading()

    # What the connection calls.

    def head_received(self, head: Head) -> None:
        """Decide from status and headers how the body is to be read."""
        self._head = head
        encoding = head.headers.get("content-encoding", "identity").strip().lower()
        if encoding in ENCODINGS:
            limit = self._max_body if head.status < FIRST_REDIRECT else MAX_ERROR_BODY
            self._inflater = Inflater(encoding, limit)
            encoding = "identity"
        if head.status >= FIRST_REFUSAL:
            self._collected = bytearray()
        elif head.status >= FIRST_REDIRECT:
            self._fail(redirected(head))
        elif encoding not in ("", "identity"):
            self._fail(
                invalid(f"a compressed reply ({encoding[:40]}) although it was asked not to")
            )
        elif _is_json(head.content_type):
            self._collected = bytearray()
        elif not self._streamed or head.content_type != "text/event-stream":
            self._fail(wrong_type(head, "text/event-stream" if self._streamed else "JSON"))

    def body_received(self, data: bytes) -> None:
        """Pass on what one read has completed."""
        reader = self._reader
        if reader.over:
            return
        if self._inflater is not None:
            data = self._inflated(self._inflater, data)
        if self._collected is not None:
            self._collect(data)
            return
        chunks = reader.read(data)
        if chunks:
            try:
                self._on_chunks(chunks)
            except Exception as exc:  # noqa: BLE001 - ours, not the upstream's: `run` raises it
                self._broke(exc)
        if reader.over:
            self._finish()

    def ended(self, outcome: ResponseEnd, detail: str) -> None:
        """The response is over: read what was collected, or say what is missing."""
        if self._reader.over:
            self._finish()
        elif self._head is not None and self._head.status >= FIRST_REFUSAL:
            self._fail(self._refusal(self._head))
        elif outcome is not ResponseEnd.COMPLETE:
            self._fail(broken(outcome, detail))
        elif self._collected is not None:
            self._read_collected(bytes(self._collected))
        else:
            self._finish()

    # Inside.

    def _inflated(self, inflater: Inflater, data: bytes) -> bytes:
        try:
            inflated = inflater.feed(data)
        except ValueError as exc:
            if self._head is None or self._head.status < FIRST_REFUSAL:
                self._fail(invalid(f"a body that is not compressed as it says ({exc})"))
            return b""
        if inflater.overflowed and self._head is not None and self._head.status < FIRST_REFUSAL:
            self._fail(_too_large(self._max_body))
            return b""
        return inflated

    def _collect(self, data: bytes) -> None:
        collected, head = self._collected, self._head
        if collected is None or head is None:
            return
        collected += data
        if head.status >= FIRST_REFUSAL:
            if len(collected) >= MAX_ERROR_BODY:
                self._fail(self._refusal(head))
        elif len(collected) > self._max_body:
            self._fail(_too_large(self._max_body))

    def _read_collected(self, body: bytes) -> None:
        if self._streamed:
            self._fail(unstreamed(body))
            return
        try:
            if chunks := self._reader.read_whole(body):
                self._on_chunks(chunks)
        except Exception as exc:  # noqa: BLE001 - as above
            self._broke(exc)
        self._finish()

    def _refusal(self, head: Head) -> UpstreamFault:
        encoding = head.headers.get("content-encoding", "identity").strip().lower()
        is_legible = self._inflater is not None or encoding in ("", "identity")
        body = bytes(self._collected or b"") if is_legible else b""
        error = error_of_reply(head.status, head.content_type, body)
        return attrs.evolve(error, retry_after=retry_after(head.headers))

    def _broke(self, exc: Exception) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_exception(exc)

    def _fail(self, error: UpstreamFault) -> None:
        self._reader.fail(error)
        self._finish()

    def _finish(self) -> None:
        if self._reader.error is not None and self._stream is not None:
            self._stream.abort()
        if self._done is not None and not self._done.done():
            self._done.set_result(None)


def _too_large(limit: int) -> UpstreamFault:
    return fault("upstream_event_too_large", f"A reply is larger than {limit} bytes.")


def _is_json(content_type: str) -> bool:
    return content_type == "application/json" or content_type.endswith("+json")
