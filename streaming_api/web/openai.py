"""OpenAI's own wire on the same engine: an OpenAI SDK works with only its ``base_url`` changed.

OpenAI API reference, "Create chat completion". An upstream's error before the first token is an
HTTP error with its status; later, an ``error`` object in the stream. ``[DONE]`` follows only an
answer that the upstream has ended itself, with a finish reason or with ``[DONE]``.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Final

import orjson
from aiohttp import web
from aiohttp.http import HttpVersion11

from streaming_api.errors import ApiError, Gone, UpstreamError
from streaming_api.ops.context import CONTEXT, client_of
from streaming_api.upstreams import reply_errors
from streaming_api.web.body import json_body
from streaming_api.web.guard import scope
from streaming_api.web.sse import EventStream, idempotency_key
from streaming_api.web.takeover import TAKEN, reserve_slot, take_over
from streaming_api.wire import framing
from streaming_api.wire.commands import OnDisconnect, chat_request

if TYPE_CHECKING:
    from streaming_api.answers.answer import Answer, AnswerOutcome
    from streaming_api.engine.sink import Watcher

_FAILED: Final = frozenset({"cancelled", "abandoned", "incomplete", "error"})


class Completion(EventStream):
    """One client of ``POST /v1/chat/completions``; its head is sent with the first bytes.

    Until the answer has begun its viewer is attached and is shown nothing, so that an upstream's
    error can still be an HTTP error, while a client that leaves is noticed at once.
    """

    __slots__ = ("_answer", "_headed", "_viewer")

    def __init__(self, request: web.Request, answer: Answer) -> None:
        chunked = request.version >= HttpVersion11
        kind = framing.CHUNKED_OPENAI if chunked else framing.OPENAI
        super().__init__(request, kind, chunked=chunked)
        self._answer = answer
        self._headed = False
        self._viewer: Watcher | None = None

    def begin(self) -> None:
        """Watch the answer: now if it has begun, else when it does."""
        self._viewer = self._answer.attach(self)
        if self._answer.begun:
            self._begun()
        else:
            self._answer.on_begun.append(self._begun)

    def leave_all(self) -> None:
        """Nobody watches here any more."""
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
            self._reply_error(_error(outcome.error, outcome.finish_reason))
        elif self._answer.stream.evicted and not self._headed:
            message = "This answer is larger than what is kept of one (retention); ask again."
            self._reply_error(Gone(message, "stream_evicted"))
        elif self._answer.request.stream:
            self._head()
            self._viewer.catch_up()
        elif outcome is not None:
            self._reply_outcome()
        else:
            self._answer.on_ended.append(self._begun)

    def _head(self) -> None:
        if not self._headed:
            self._headed = True
            coding = "Transfer-Encoding: chunked\r\n" if self._chunked else ""
            self.write(self._head_bytes(200, "text/event-stream", coding))

    def _head_bytes(self, status: int, content_type: str, extra: str) -> bytes:
        return (
            f"HTTP/1.1 {status} {_reason(status)}\r\n"
            f"Content-Type: {content_type}\r\n{extra}"
            "Cache-Control: no-cache\r\nX-Accel-Buffering: no\r\n"
            f"Connection: {'keep-alive' if self.keep_alive else 'close'}\r\n"
            f"X-Request-Id: {self._answer.request_id}\r\n\r\n"
        ).encode()

    def send(self, payload: bytes, message_type: str) -> None:
        """A notice, which is a comment here; before the head there is no place for one."""
        if self._headed:
            super().send(payload, message_type)

    def comment(self, text: bytes) -> None:
        """Silence before the first token: the head goes out with a sign of life."""
        if self._answer.request.stream:
            self._head()
            super().comment(text)

    def finished(self, viewer: Watcher) -> None:  # noqa: ARG002 (there is one)
        """All of the stream is written; say how it ended."""
        outcome = self._answer.outcome
        assert outcome is not None
        if _has_failed(outcome):
            self._tell_error(_error(outcome.error, outcome.finish_reason))
        else:
            super().comment(b"data: [DONE]\n\n")
        super().end("finished")

    def _tell_error(self, error: UpstreamError) -> None:
        super().comment(b"data: %b\n\n" % orjson.dumps({"error": error.body()}))

    def end(self, ending: str) -> None:
        """End before the answer has, saying so: in the stream, or instead of it."""
        if self.ending is not None:
            return
        if self._headed:
            self._tell_error(_error(None, "incomplete"))
            super().end(ending)
        else:
            self._reply_error(_error(None, "incomplete"))

    def _reply_outcome(self) -> None:
        """Not a stream: the whole completion, or the error instead of it."""
        outcome = self._answer.outcome
        assert outcome is not None
        if _has_failed(outcome):
            self._reply_error(_error(outcome.error, outcome.finish_reason))
        else:
            first = self._answer.stream.after(0, self._answer.channel.number, 1)[0]
            self._reply_whole(200, first.data)

    def _reply_error(self, error: ApiError) -> None:
        wait = "" if error.retry_after is None else f"Retry-After: {error.retry_after}\r\n"
        self._reply_whole(error.status, orjson.dumps({"error": error.body()}), wait)

    def _reply_whole(self, status: int, body: bytes, extra: str = "") -> None:
        self._headed = True
        self.ending = "finished"
        self.leave_all()
        extra += f"Content-Length: {len(body)}\r\n"
        self.write(self._head_bytes(status, "application/json", extra) + body)
        self._leave("finished")


def _has_failed(outcome: AnswerOutcome) -> bool:
    """Whether a client that asked the upstream itself would be told of a fault, or cut."""
    return outcome.finish_reason in _FAILED and not outcome.done


def _reason(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Upstream Status"


def _error(error: reply_errors.UpstreamFault | None, finish_reason: str) -> UpstreamError:
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


@scope("chat")
async def chat_completions(request: web.Request) -> web.StreamResponse:
    """POST /v1/chat/completions, ``stream`` true or false (default)."""
    context = request.app[CONTEXT]
    context.answers.require()
    client = client_of(request)
    client.take_command()
    key = idempotency_key(request)
    fields, text = await json_body(request)
    if fields.get("stream") is None:
        fields["stream"] = False
    # Who marks a question for retries comes back for its answer.
    leaving = OnDisconnect.CANCEL if key is None else OnDisconnect.GRACE
    asked = chat_request(fields, text, on_disconnect=leaving)
    with reserve_slot(request, "sse") as slot:
        answer = context.retries.start(key, asked, client)
        connection = Completion(request, answer)
        try:
            take_over(request, connection, slot)
        except BaseException:
            answer.settle()
            raise
        connection.begin()
    return TAKEN


@scope("chat")
async def models(request: web.Request) -> web.Response:
    """GET /v1/models: the upstream's list."""
    context = request.app[CONTEXT]
    context.answers.require()
    try:
        listed = await context.upstream.models(client_of(request).authorization)
    except reply_errors.UpstreamError as failed:
        raise _error(failed.error, "error") from None
    return web.Response(
        body=orjson.dumps({"object": "list", "data": listed}), content_type="application/json"
    )
