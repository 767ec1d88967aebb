"""One client that is shown an answer in OpenAI's way; the base of such clients of other wires.

An upstream's error before the first token is an HTTP error with its status; a later one is an
``error`` object in the stream. ``[DONE]`` follows only an answer that the upstream itself has
ended, with a finish reason or with ``[DONE]``.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, ClassVar, Final

import attrs
import orjson
from aiohttp import hdrs, web
from aiohttp.http import HttpVersion11

from streaming_api.connections.endings import CloseReason
from streaming_api.errors import ApiError, BadRequest, Gone, UpstreamError
from streaming_api.ops.context import CONTEXT
from streaming_api.upstreams import reply_errors
from streaming_api.upstreams.header_names import chosen
from streaming_api.web.headers import head_lines
from streaming_api.web.sse import EventStream
from streaming_api.web.takeover import TAKEN, take_over
from streaming_api.wire import framing
from streaming_api.wire.commands import ChatRequest

if TYPE_CHECKING:
    from streaming_api.answers.watched_answer import AnswerOutcome, WatchedAnswer
    from streaming_api.connections.admission import Slot
    from streaming_api.engine.sink import Watcher
    from streaming_api.engine.viewer import Viewer
    from streaming_api.faces.derived import Derived

_HALF_CLOSED: Final = BadRequest(
    "The connection was closed for sending, which counts as leaving: keep it open for the answer.",
    "half_closed",
)
FAILED: Final = frozenset({"cancelled", "abandoned", "incomplete", "error"})


class Completion(EventStream):
    """One client of ``POST /v1/chat/completions``; the head is sent with the first bytes.

    Until the answer has begun, its viewer is attached but shown nothing, so that an upstream's
    error can still become an HTTP error, while a client that leaves is noticed at once.
    """

    comes_back: ClassVar[bool] = False
    FRAMINGS: ClassVar = (framing.OPENAI, framing.CHUNKED_OPENAI)
    """Framings for a body that ends with the connection, and for one in chunks."""
    HEAD: ClassVar = ""
    """Further lines of the head."""

    __slots__ = ("_after", "_answer", "_common", "_headed", "_shown", "_viewer")

    def __init__(
        self,
        request: web.Request,
        answer: WatchedAnswer,
        after: int = 0,
        shown: Derived | None = None,
    ) -> None:
        chunked = request.version >= HttpVersion11
        super().__init__(request, self.FRAMINGS[chunked], chunked=chunked)
        self._answer = answer
        self._shown = shown or answer
        self._after = after
        self._common = head_lines(request)
        self._headed = False
        self._viewer: Viewer | None = None

    @property
    def streamed(self) -> bool:
        """Whether the client is sent events instead of one object."""
        return self._answer.request.stream

    @property
    def missing(self) -> bool:
        """Whether part of what the client is to receive is no longer kept."""
        return self._shown.stream.evicted > self._after

    def open(self, request: web.Request, slot: Slot) -> web.StreamResponse:
        """Take the client's connection over, and show the answer on it."""
        try:
            take_over(request, self, slot)
        except BaseException:
            self._shown.check_watched()  # the client left while its response was being opened
            raise
        self.begin()
        return TAKEN

    def attach(self) -> Viewer:
        """Begin to watch, from the client's cursor."""
        return self._shown.attach(self, self._after)

    def begin(self) -> None:
        """Watch the answer: now if it has begun, otherwise as soon as it does."""
        self._viewer = self.attach()
        if self._answer.begun:
            self._begun()
        else:
            self._answer.on_begun.append(self._begun)

    def leave_all(self) -> None:
        """Stop watching the answer."""
        super().leave_all()
        self._viewer = None

    def _begun(self) -> None:
        if self.ending is not None or self._viewer is None or self._viewer.gone:
            return
        outcome = self._answer.outcome
        if (
            outcome is not None
            and self._answer.chunks == 0
            and _has_failed(outcome)
            and not self._headed
        ):
            self.reply_error(error_of(outcome.error, outcome.finish_reason))
        elif self.missing and not self._headed:
            message = "This answer is larger than what is kept of one (retention); ask again."
            self.reply_error(Gone(message, "stream_evicted"))
        elif self.streamed:
            self._show(self._viewer)
        elif not self.reply_whole():
            self._answer.on_ended.append(self._begun)

    def _show(self, viewer: Viewer) -> None:
        """Send the head, and what there is in the same write."""
        self._head()
        viewer.catch_up()
        self.send_opening()

    def _head(self) -> None:
        """Let the head go ahead of whatever is written next."""
        if not self._headed:
            self._headed = True
            coding = "Transfer-Encoding: chunked\r\n" if self._chunked else ""
            self.opening = self._head_bytes(200, "text/event-stream", coding)

    def _head_bytes(self, status: int, content_type: str, extra: str) -> bytes:
        ours = (extra + self._common).lower()
        for name, value in self._answer.gateway_headers.items():
            if f"{name.lower()}:" not in ours:  # ours, of this server's own limits, comes first
                extra += f"{name}: {value}\r\n"
        return (
            f"HTTP/1.1 {status} {_reason(status)}\r\n"
            f"Content-Type: {content_type}\r\n{self.HEAD}{extra}{self._common}"
            "Cache-Control: no-cache\r\nX-Accel-Buffering: no\r\n"
            f"Connection: {'keep-alive' if self.keep_alive else 'close'}\r\n"
            f"X-Request-Id: {self._answer.request_id}\r\n\r\n"
        ).encode()

    def send(self, payload: bytes, message_type: str) -> None:
        """Send a notice as a comment; before the head there is no place for one."""
        if self._headed:
            super().send(payload, message_type)

    def comment(self, text: bytes) -> None:
        """Send a heartbeat; before the first token it takes the head along."""
        if self.streamed:
            self._head()
            super().comment(text)

    def finished(self, viewer: Watcher) -> None:  # noqa: ARG002 (there is one)
        """Report how the answer ended; all of its stream has been written."""
        outcome = self._answer.outcome
        assert outcome is not None
        if _has_failed(outcome):
            self.send_error(error_of(outcome.error, outcome.finish_reason))
        else:
            self.opening += self.in_body(b"data: [DONE]\n\n")  # it goes along with the end
        self.end_body(CloseReason.FINISHED)

    def end_body(self, ending: CloseReason) -> None:
        """End the response, whose content is complete."""
        super().end(ending)

    def send_error(self, error: ApiError) -> None:
        """Report in the stream what went wrong."""
        super().comment(b"data: %b\n\n" % orjson.dumps({"error": error.body()}))

    def eof_received(self) -> None:
        """Note that the client has left; say why to one that only listens."""
        if self.ending is not None:
            return
        if self._headed:
            self.send_error(_HALF_CLOSED)
            self.end_body(CloseReason.CLIENT)
        else:
            self._keep_alive = False
            self.reply_error(_HALF_CLOSED)
            self.ending = CloseReason.CLIENT

    def end(self, ending: CloseReason) -> None:
        """End before the answer does, and say so: in the stream, or in place of it."""
        if self.ending is not None:
            return
        if self._headed:
            self.send_error(error_of(None, "incomplete"))
            self.end_body(ending)
        else:
            self.reply_error(error_of(None, "incomplete"))

    def reply_whole(self) -> bool:
        """Send the whole completion, or the error in its place, if the answer has ended."""
        outcome = self._answer.outcome
        if outcome is None:
            return False
        if _has_failed(outcome):
            self.reply_error(error_of(outcome.error, outcome.finish_reason))
        else:
            first = self._answer.stream.after(0, self._answer.channel.number, 1)[0]
            self.reply(200, first.data)
        return True

    def reply_error(self, error: ApiError) -> None:
        """Send an error instead of the answer."""
        wait = "" if error.retry_after is None else f"Retry-After: {error.retry_after}\r\n"
        self.reply(error.status, orjson.dumps({"error": error.body()}), wait)

    def reply(self, status: int, body: bytes, extra: str = "") -> None:
        """Send one JSON object, which is the whole response."""
        self._headed = True
        self.ending = CloseReason.FINISHED
        self.leave_all()
        extra += f"Content-Length: {len(body)}\r\n"
        self.write(self._head_bytes(status, "application/json", extra) + body)
        self._leave(CloseReason.FINISHED)


def _has_failed(outcome: AnswerOutcome) -> bool:
    """Whether a direct client of the upstream would have been sent an error, or cut off."""
    return outcome.finish_reason in FAILED and not outcome.done


def _reason(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Upstream Status"


def error_of(error: reply_errors.UpstreamFault | None, finish_reason: str) -> UpstreamError:
    """Return the error that a client is sent for an answer that has failed."""
    if error is None:
        message = f"The answer was ended: {finish_reason}."
        return UpstreamError(message, finish_reason, status=503)
    refused = error.status is not None and error.status >= 400
    return UpstreamError(
        error.message,
        error.code or "upstream_error",
        status=error.status if refused else None,  # a 200 or 307 with nonsense is a bad gateway
        error_type=error.type,
        param=error.param,
        retry_after=error.retry_after,
        fields=error.fields,
    )


def with_headers(asked: ChatRequest, request: web.Request) -> ChatRequest:
    """Return the request with those of the client's headers that go to the upstream."""
    headers = chosen(request.headers, request.app[CONTEXT].config.forward_headers)
    return attrs.evolve(asked, headers=headers) if headers else asked


def head_alone(extra: Mapping[str, str] | None = None) -> web.StreamResponse:
    """Return the reply to a HEAD, which opens no stream."""
    response = web.StreamResponse(headers=extra)
    response.content_type = "text/event-stream"
    response.headers[hdrs.CACHE_CONTROL] = "no-cache"
    return response
