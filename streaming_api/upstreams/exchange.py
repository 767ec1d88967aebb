"""One question to an upstream, from connecting to the reply's end; knows HTTP's faults, not chat.

What a reply means is up to a `Reader`. Every fault of the upstream goes to `Reader.fail`; only
a fault of ours, in the callback, is raised.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Final, Generic

import attrs
import orjson

from streaming_api.upstreams import repair
from streaming_api.upstreams.answer import invalid
from streaming_api.upstreams.connections import Connections
from streaming_api.upstreams.http1 import REQUEST_TIMEOUT, Head, ResponseEnd, ResponseProtocol
from streaming_api.upstreams.http_faults import broken, redirected, wrong_type
from streaming_api.upstreams.inflate import ENCODINGS, Inflater, coding_of
from streaming_api.upstreams.question import Question, R
from streaming_api.upstreams.reply_errors import (
    UpstreamFault,
    at_address,
    error_of_reply,
    fault,
    illegible,
)
from streaming_api.upstreams.retry_after import retry_after
from streaming_api.upstreams.sniffing import EVENT_STREAM, Body, body_of
from streaming_api.upstreams.stream_usage import Fallback, is_refused, names_stream_options

MAX_ERROR_BODY: Final = 65_536  # bytes of a refusal's body that are read
FIRST_REDIRECT: Final = 300
FIRST_REFUSAL: Final = 400
_CLOSED: Final = frozenset({ResponseEnd.CUT, ResponseEnd.RESET})


class Exchange(Generic[R]):
    """One question to the upstream, and its reply.

    It is asked again where that cannot do harm: on a new connection if a kept one had been closed,
    or was about to be (408, RFC 9110 section 15.5.9), and without ``stream_options`` if the
    upstream refuses them.

    Args:
        connections: to the upstream.
        question: what is asked.
        body: the request's body.
        on_chunks: called with what each read of the reply is to pass on.
        fallback: asked instead where ``stream_options`` are refused.
        during: entered for as long as a reader's reply is waited for.
    """

    __slots__ = (
        "_body",
        "_collected",
        "_connections",
        "_done",
        "_during",
        "_fallback",
        "_head",
        "_inflater",
        "_is_paused",
        "_on_chunks",
        "_question",
        "_reader",
        "_request",
        "_stream",
        "_was_closed",
    )

    def __init__(
        self,
        connections: Connections,
        question: Question[R],
        body: bytes,
        on_chunks: Callable[[list[bytes]], None],
        *,
        fallback: Fallback | None = None,
        during: Callable[[R], AbstractContextManager[None]] = lambda _: nullcontext(),
    ) -> None:
        self._connections = connections
        self._question = question
        self._request = question.request(body)
        self._reader = question.reader()
        self._on_chunks = on_chunks
        self._fallback = fallback
        self._during = during
        self._head: Head | None = None
        self._body = Body.UNKNOWN
        self._collected: bytearray | None = None  # a body that is read whole; None for a stream
        self._inflater: Inflater | None = None
        self._stream: ResponseProtocol | None = None
        self._done: asyncio.Future[None] | None = None
        self._is_paused = False
        self._was_closed = False

    def begin(self) -> None:
        """Ask now if a connection is idle; `run`, which must follow at once, does the rest."""
        if self._connections.idle:
            stream = self._prepare()
            if not self._connections.reuse(stream):
                stream.abort()
                self._stream = None

    def abort(self) -> None:
        """Close the connection, if there is one: nobody will `run` this."""
        if self._stream is not None:
            self._stream.abort()

    async def run(self) -> R:
        """Ask, and return the reader that has read the reply to its end; call it only once.

        An upstream's faults are in `Reader.error`; only what `on_chunks` raises is raised.
        Cancelling aborts the connection at once: before the first byte, and while connecting, too.
        """
        await self._ask()
        fallback = self._fallback
        if fallback is not None and self._is_refused and names_stream_options(self._refusal_body):
            fallback.refused()
            self._ask_otherwise(fallback.body())
            await self._ask()
            if self._is_refused:
                fallback.in_vain()
        return self._reader

    @property
    def headers(self) -> dict[str, str]:
        """The reply's headers; none before there is one."""
        return {} if self._head is None else self._head.headers

    @property
    def status(self) -> int | None:
        """The reply's HTTP status; None before there is one."""
        return None if self._head is None else self._head.status

    @property
    def repaired(self) -> int:
        """Chunks and replies in which something that UTF-8 JSON cannot say was replaced."""
        return self._reader.repaired

    def pause_reading(self) -> None:
        """Read nothing more for now: TCP makes the upstream wait, and its silence is not counted.

        Chunks of a read that is being handled may still arrive.
        """
        self._is_paused = True
        if self._stream is not None:
            self._stream.pause_reading()

    def resume_reading(self) -> None:
        """Undo `pause_reading`; harmless without it."""
        self._is_paused = False
        if self._stream is not None:
            self._stream.resume_reading()

    # Asking

    async def _ask(self) -> None:
        with self._during(self._reader):
            await self._read_reply()
            error = self._reader.error
            if error is not None:
                self._reader.error = at_address(error, self._question.address)

    @property
    def _is_refused(self) -> bool:
        return self._reader.error is not None and is_refused(self.status)

    @property
    def _refusal_body(self) -> bytes:
        return bytes(self._collected or b"")

    def _ask_otherwise(self, body: bytes) -> None:
        """Forget the reply, and prepare to ask with another body."""
        self._request = self._question.request(body)
        self._reader = self._question.reader()
        self._head = self._collected = self._inflater = self._stream = None
        self._body = Body.UNKNOWN

    async def _read_reply(self) -> None:
        begun = self._stream
        stream = begun or self._prepare()
        try:
            if begun is not None or self._connections.reuse(stream):
                await self._wait()
                if not self._was_closed:
                    stream.linger()
                    return
                stream = self._prepare()
            self._request = b""
            error = await self._connections.connect(stream)
            if error is not None:
                self._reader.fail(error)
                stream.abort()
                return
            await self._wait()
        except BaseException:
            if self._stream is not None:
                self._stream.abort()
            raise
        stream.linger()

    def _prepare(self) -> ResponseProtocol:
        loop = asyncio.get_running_loop()
        self._done = loop.create_future()
        silence = self._connections.silence_timeout
        stream = self._stream = ResponseProtocol(loop, self._request, self, silence)
        self._was_closed = False
        if self._is_paused:
            stream.pause_reading()
        return stream

    async def _wait(self) -> None:
        assert self._done is not None
        await self._done

    # What the connection calls.

    def head_received(self, head: Head) -> None:
        """Decide from status and headers whether the body is to be read."""
        if head.status == REQUEST_TIMEOUT and self._request and self._stream is not None:
            self._was_closed = True  # a kept connection on which it waited in vain, until now
            self._stream.abort()
            self._finish()
            return
        self._head = head
        coding = coding_of(head.headers)
        if coding in ENCODINGS:
            limit = self._question.max_body if head.status < FIRST_REDIRECT else MAX_ERROR_BODY
            self._inflater = Inflater(coding, limit)
            coding = ""
        if FIRST_REDIRECT <= head.status < FIRST_REFUSAL:
            self._fail(redirected(head))
        elif head.status < FIRST_REDIRECT and coding:
            self._fail(invalid(f"a compressed reply ({coding[:40]}) although it was asked not to"))
        else:  # until its first bytes show that it is a stream
            self._collected = bytearray()

    def body_received(self, data: bytes) -> None:
        """Pass on what one read has completed."""
        reader = self._reader
        if reader.over:
            return
        if self._inflater is not None:
            data = self._inflated(self._inflater, data)
        if self._collected is not None:
            data = self._collect(data)
            if not data:  # it is read whole, or has not shown yet what it is
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
        """Take the response's end: read what was collected, or report what is missing."""
        stream = self._stream
        if self._request and stream is not None and not stream.answered and outcome in _CLOSED:
            self._was_closed = True  # a kept connection; the request can be sent again
            self._finish()
        elif self._reader.over:
            self._finish()
        elif self._head is not None and self._head.status >= FIRST_REFUSAL:
            self._fail(self._refusal(self._head))
        elif outcome is not ResponseEnd.COMPLETE:
            self._fail(broken(outcome, detail))
        elif self._collected is None and self._inflater is not None and self._inflater.is_cut:
            self._fail(broken(ResponseEnd.CUT, "its compressed stream has no end"))
        elif self._head is not None:
            self._read_end(self._head)

    # Inside.

    def _inflated(self, inflater: Inflater, data: bytes) -> bytes:
        try:
            inflated = inflater.feed(data)
        except ValueError as exc:
            if self._head is None or self._head.status < FIRST_REFUSAL:
                self._fail(invalid(f"a body that is not compressed as it says ({exc})"))
                return b""
            if self._collected:
                return b""
            self._inflater = None  # an error page that only says that it is compressed
            return data
        if inflater.overflowed and self._head is not None and self._head.status < FIRST_REFUSAL:
            self._fail(_too_large(self._question.max_body))
            return b""
        return inflated

    def _collect(self, data: bytes) -> bytes:
        """Keep a body that is read whole; return a stream's beginning, which is no longer kept."""
        collected, head = self._collected, self._head
        if collected is None or head is None:
            return b""
        collected += data
        if head.status >= FIRST_REFUSAL:
            if len(collected) >= MAX_ERROR_BODY:
                self._fail(self._refusal(head))
        elif self._body is Body.UNKNOWN:
            return self._look(collected, head)
        elif len(collected) > self._question.max_body:
            self._fail(_too_large(self._question.max_body))
        return b""

    def _look(self, collected: bytearray, head: Head) -> bytes:
        """Tell from its first bytes what a body is, whatever its type says."""
        self._body, collected[:] = body_of(bytes(collected), head.content_type)
        if self._body is Body.EVENTS:
            self._collected = None
            return bytes(collected)
        if self._body is Body.OTHER:
            self._fail(wrong_type(head, "an event stream" if self._question.streamed else "JSON"))
        elif len(collected) > self._question.max_body:  # a whole answer in one read
            return self._collect(b"")
        return b""

    def _read_end(self, head: Head) -> None:
        """Read the end of a body that is complete by HTTP's rules."""
        reader, body = self._reader, self._collected
        if body is not None and self._body is Body.UNKNOWN and head.content_type != EVENT_STREAM:
            self._fail(wrong_type(head, "an event stream" if self._question.streamed else "JSON"))
            return
        try:
            if body is not None and self._body is Body.JSON:
                chunks = reader.read_whole(bytes(body))
            else:
                chunks = reader.read_end(delimited=head.is_delimited)
            if chunks:
                self._on_chunks(chunks)
        except Exception as exc:  # noqa: BLE001 - as above
            self._broke(exc)
        self._finish()

    def _refusal(self, head: Head) -> UpstreamFault:
        coding = coding_of(head.headers)
        if coding and coding not in ENCODINGS:
            error = illegible(head.status, coding[:40])
            return attrs.evolve(error, retry_after=retry_after(head.headers))
        body = bytes(self._collected or b"")
        with suppress(orjson.JSONDecodeError):
            _, said = repair.loads(body)
            self._reader.repaired += said is not body
            body = said
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
