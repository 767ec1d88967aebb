"""Answer: one answer. Its stream, and the task that fills it from the upstream."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import TYPE_CHECKING, Final, Protocol

import attrs
import orjson

from streaming_api.answer_record import AnswerRecord
from streaming_api.answers.ending import (
    NOTHING,
    OUR_BUG,
    SERVER_STOPPED,
    error_body,
    figure,
    log_end,
    outcome_of,
    usage_of,
)
from streaming_api.answers.request import UpstreamRequest
from streaming_api.answers.watched_answer import AnswerOutcome, WatchedAnswer, notify
from streaming_api.engine.stream import Retention
from streaming_api.engine.viewer import Viewer
from streaming_api.text import ascii_line
from streaming_api.trace_context import TraceContext
from streaming_api.upstreams.answer import AnswerReader, ExchangeResult
from streaming_api.upstreams.exchange import Exchange
from streaming_api.upstreams.reply_errors import UpstreamError
from streaming_api.wire.commands import ChatRequest, OnDisconnect
from streaming_api.wire.messages import CHAT

if TYPE_CHECKING:
    from streaming_api.access.client import Client
    from streaming_api.answers.queue import AnswerQueue
    from streaming_api.engine.budget import Account
    from streaming_api.engine.channel import Channel
    from streaming_api.engine.sink import Sink
    from streaming_api.engine.turn import Turn
    from streaming_api.upstreams.gateway import OpenAIClient

logger = logging.getLogger(__name__)


class AnswerObserver(Protocol):
    """Is notified of the progress of answers. A type: nothing inherits it.

    Attributes:
        turn: shows what the upstream has sent to all answers in one turn of the event loop.
    """

    turn: Turn

    def begun(self, seconds: float) -> None:
        """Note that the first chunk came after this number of seconds."""

    def has_room(self, answer: Answer) -> bool:
        """Return whether it may read on; if not, `Answer.go_on` is called when it may."""

    def ended(self, answer: Answer) -> None:
        """Note that an answer has ended."""


class Answer(WatchedAnswer):
    """One answer: its stream, and the task that fills it from the upstream.

    Args:
        asked: the request to the upstream.
        client: the client that asks.
        channel: a new one, for this answer alone.
        queue: where it waits for an upstream connection.
        retention: of its stream.
        resume_grace: seconds that it continues without a viewer, where that is asked for.
        observer: notified of its beginning and its end.
        account: counts its memory.

    Attributes:
        task: the task that fills the stream.
        repaired: chunks in which something that UTF-8 JSON cannot say was replaced; counted at its
            end.
        share: the share that its memory counts towards.
    """

    def __init__(
        self,
        asked: UpstreamRequest,
        client: Client,
        *,
        channel: Channel,
        queue: AnswerQueue,
        retention: Retention,
        resume_grace: float,
        observer: AnswerObserver,
        account: Account,
    ) -> None:
        super().__init__(asked.request, client.owner, client.name, channel, retention, account)
        self.share = share = account.share
        self._held, self._everything = share.tally, share.budget.tally
        self._request_bytes = request_bytes(asked.request)
        share.charge(self._request_bytes, share.budget.requests)
        self.repaired = 0
        self.started = time.monotonic()
        self.ended = 0.0
        self._first: float | None = None
        self._exchange: Exchange[AnswerReader] | None = None
        self._asking = 0.0  # time at which the upstream was asked
        self._answering = ""  # the model that the upstream names as answering
        self._face = client.face
        parent = asked.request.trace or client.trace
        self._trace = parent.child() if parent is not None else TraceContext.begin()
        self._call = self._trace.child()
        self.record: AnswerRecord | None = None
        self._stopped: AnswerOutcome | None = None  # why we ended it ourselves
        self._grace: asyncio.TimerHandle | None = None
        self._coming_back = False  # whether who attaches next has watched before
        self._resumed: list[float] = []  # when somebody came back, in seconds from the start
        self._asked = asked
        self._queue = queue
        self._turn = observer.turn
        self._resume_grace = resume_grace
        self._observer = observer
        self.channel.on_unwatched = self._unwatched
        self._ask_at_once(client.authorization)
        self.task = asyncio.create_task(self._run(client.authorization), name="answer")
        self.task.add_done_callback(self._ended_before_it_ran)

    def __repr__(self) -> str:
        state = (
            self.outcome.finish_reason if self.outcome else "queued" if self.position else "runs"
        )
        return f"<Answer {self.request_id} {state}, {self.chunks} chunks>"

    @property
    def begun(self) -> bool:
        """Whether the first chunk or the end is there."""
        return self._first is not None or self.outcome is not None

    @property
    def failed(self) -> bool:
        """Whether it will not be complete: cancelled, abandoned, incomplete or an error."""
        return self._stopped is not None or super().failed

    @property
    def turn(self) -> Turn:
        """The turn of the event loop in which it is written, beside others."""
        return self._turn

    def cancel(self, outcome: AnswerOutcome | None = None) -> None:
        """End it: the upstream's connection is closed at once. Harmless when it has ended."""
        if self.outcome is None and self._stopped is None:
            self._stopped = outcome or AnswerOutcome("cancelled")
            self.task.cancel()

    # Filling the stream

    def _ask_at_once(self, authorization: str | None) -> None:
        """Ask before the task has its first turn, if nothing has to be waited for."""
        upstream = self._asked.upstream.client
        if upstream is not None and self._queue.take():
            try:
                self._exchange = self._prepared(upstream, authorization)
                self._exchange.begin()
            except ValueError:  # the task will see the same
                self._queue.release()

    def _prepared(
        self, upstream: OpenAIClient, authorization: str | None
    ) -> Exchange[AnswerReader]:
        self._asking = time.monotonic()
        self._debug("asks the upstream")
        return self._asked.exchange(upstream, self._chunks, authorization, self._headers())

    async def _run(self, authorization: str | None) -> None:
        ending = NOTHING
        try:
            if self._exchange is None:
                await self._queue.acquire(self._queued)
            try:
                if self._exchange is None:
                    self._queued(0)
                    upstream = await self._asked.upstream.ready()
                    self._exchange = self._prepared(upstream, authorization)
                ending = (await self._exchange.run()).result
            finally:
                self._queue.release()
        except asyncio.CancelledError:
            if self._stopped is None:
                self._stopped = AnswerOutcome("incomplete", SERVER_STOPPED)
        except UpstreamError as failed:
            self._stopped = AnswerOutcome("error", failed.error)
        except Exception:
            logger.exception("an answer failed")
            self._stopped = AnswerOutcome("error", OUR_BUG)
        with contextlib.suppress(asyncio.CancelledError):  # it ends all the same
            await self._turn.to_end()
        self._end(ending)

    def _headers(self) -> dict[str, str]:
        """Return the headers for the upstream: the client's own, this answer's id, its trace."""
        own = {"x-request-id": self.request_id} | dict(self.request.headers)
        return own | self._call.headers()

    def _note_headers(self) -> None:
        if self._exchange is not None:
            self.gateway_headers = self._asked.upstream.returned(self._exchange.headers)

    def _ended_before_it_ran(self, task: asyncio.Task[None]) -> None:
        if self.outcome is None:  # cancelled before the task's first step
            if self._exchange is not None:
                self._exchange.abort()
                self._queue.release()
            self._end(NOTHING)
            with contextlib.suppress(asyncio.CancelledError):
                task.result()  # else it keeps its frame, and the frame this answer

    def _chunks(self, chunks: list[bytes]) -> None:
        """Take, on the hot path, what one read of the upstream brought: the first of it at once."""
        if self._first is not None:
            self._turn.add(self, chunks)
            return
        self._first = time.monotonic()
        self._note_headers()
        shown = self._mark_substitution(chunks)
        self.chunks = len(shown)
        self.channel.append(self.stream, shown)
        notify(self.on_begun)
        self._observer.begun(self._first - self.started)
        self._answering = _model_of(chunks)
        self._debug("has its first chunk")
        self._look_for_room()

    def take(self, chunks: list[bytes]) -> None:
        """Append chunks as they are; they are written at the end of this turn."""
        try:
            self.chunks = self.chunks + len(chunks)
            channel, held, everything = self.channel, self._held, self._everything
            channel.append(self.stream, chunks, later=self._turn.flushed)
            if channel.full or held.bytes > held.limit or everything.bytes > everything.limit:
                self._look_for_room()
        except Exception:
            logger.exception("an answer failed")
            self.cancel(AnswerOutcome("error", OUR_BUG))

    def _look_for_room(self) -> None:
        """Stop reading while its viewers, or the memory of all, cannot take more."""
        if self.channel.full and self._exchange is not None:
            self.channel.on_room = self._exchange.resume_reading
            self._exchange.pause_reading()
        elif self.share.over:
            self._turn.write()  # making room may end connections
            self._wait_for_memory()

    def _wait_for_memory(self) -> None:
        """Pause until there is room again; `go_on` is called then."""
        if self._exchange is not None and not self._observer.has_room(self):
            self._exchange.pause_reading()

    def go_on(self) -> None:
        """Read on, unless viewers themselves hold it up."""
        if self._exchange is not None and not self.channel.full:
            self._exchange.resume_reading()

    def _mark_substitution(self, chunks: list[bytes]) -> list[bytes]:
        """Mark the first chunk when another model answers than the one that was asked for."""
        substitute = self._asked.substitute
        if substitute is None or not chunks:
            return chunks
        models = orjson.dumps({"requested": self.request.model, "model": substitute})
        first = b'{"model_substituted":%b,%b' % (models, chunks[0].lstrip()[1:])
        return [first, *chunks[1:]]

    def _end(self, ending: ExchangeResult) -> None:
        self._turn.end()  # a reply may be complete before its chunks have had their turn
        self.outcome = outcome = self._stopped or outcome_of(ending)
        status = None
        if self._exchange is not None:
            if self._first is None:
                self._note_headers()
            self.repaired = self._exchange.repaired
            status = self._exchange.status
        self._exchange = None  # all that is kept of the answer is its backlog
        self._drop_request()
        self.ended = now = time.monotonic()
        self.position = 0
        if self._grace is not None:
            self._grace.cancel()
        usage, source = usage_of(ending, self.chunks)
        data: dict[str, object] = {
            "object": "chat.completion.end",
            "finish_reason": outcome.finish_reason,
            "usage": usage,
            "usage_source": source,
        }
        if outcome.error is not None:
            data["error"] = error_body(outcome.error)
        if (substitute := self._asked.substitute) is not None:
            data["model_substituted"] = {"requested": self.request.model, "model": substitute}
        first = None if self._first is None else round((self._first - self.started) * 1000, 3)
        data["timing"] = {
            "time_to_first_chunk_ms": first,
            "total_ms": round((now - self.started) * 1000, 3),
            "chunks": self.chunks,
        }
        self.record = self._recorded(outcome, status, usage, reported=source == "reported")
        log_end(self.record, outcome)
        self._observer.ended(self)
        self.channel.end(self.stream, orjson.dumps(data))
        self.stream.settle()
        self.channel.on_unwatched = self.channel.on_room = None  # or they would keep each other
        notify(self.on_begun)
        notify(self.on_ended)

    def _drop_request(self) -> None:
        """Drop the request once the upstream has it, or never will; how it was asked is kept."""
        self.request = attrs.evolve(self.request, parameters=b"{}")
        self._asked = UpstreamRequest(self._asked.upstream, self.request)
        self.share.charge(-self._request_bytes, self.share.budget.requests)

    def _recorded(
        self,
        outcome: AnswerOutcome,
        status: int | None,
        usage: dict[str, object] | None,
        *,
        reported: bool,
    ) -> AnswerRecord:
        error = outcome.error
        asked = ascii_line(self.request.model or "")
        said = (error.code or error.type) if error is not None else ""
        return AnswerRecord(
            request_id=self.request_id,
            key=self.owner,
            face=self._face,
            asked=asked,
            answered=ascii_line(self._answering) or self._asked.substitute or asked,
            outcome=ascii_line(outcome.finish_reason),
            reason=ascii_line(said),
            status=status if status is not None or error is None else error.status,
            ended=time.time(),
            queued=(self._asking or self.ended) - self.started,
            first=None if self._first is None else self._first - self.started,
            seconds=self.ended - self.started,
            longest_gap=self.stream.longest_gap(),
            resumed=tuple(self._resumed),
            chunks=self.chunks,
            repaired=self.repaired,
            input_tokens=figure(usage, "prompt_tokens"),
            output_tokens=figure(usage, "completion_tokens") or 0,
            reported=reported,
            trace=self._trace,
            call=self._call,
        )

    def _debug(self, what: str) -> None:
        after = time.monotonic() - self.started
        logger.debug(
            "answer %s %s after %.3f s", self.request_id, what, after, extra={"trace": self._trace}
        )

    def _queued(self, position: int) -> None:
        if position != self.position:
            self.position = position
            if position:
                for viewer in self.channel.viewers():
                    viewer.connection.send(self.queue_notice(), CHAT)

    # Audience

    def watch(self, connection: Sink, after: int, fault: str | None = None) -> Viewer:
        """Show this answer on a connection, from strictly after a sequence_id."""
        self._coming_back = self._coming_back or after > 0
        return super().watch(connection, after, fault)

    def attach(self, connection: Sink, after: int = 0) -> Viewer:
        """Count a connection among the viewers, before anything is shown on it."""
        self._coming_back = self._coming_back or after > 0
        self.returned()
        return super().attach(connection, after)

    def returned(self) -> None:
        """Note that somebody watches again: the answer is not abandoned."""
        if self._coming_back and self.outcome is None and len(self._resumed) < _RESUMES_KEPT:
            self._resumed.append(time.monotonic() - self.started)
        self._coming_back = self._moving = False
        if self._grace is not None:
            self._grace.cancel()
            self._grace = None

    def check_watched(self) -> None:
        """Do what ``on_disconnect`` says if nobody watches."""
        if not self.channel.watched:
            self._unwatched()

    def move(self) -> None:
        """Expect that viewers who leave now come back on another process: it was not their wish."""
        self._moving = True

    def _unwatched(self) -> None:
        if self.outcome is not None or self._stopped is not None:
            return
        self._coming_back = True
        if self.request.on_disconnect is OnDisconnect.CANCEL and not self._moving:
            self.cancel()
        elif self.request.on_disconnect is not OnDisconnect.FINISH and self._grace is None:
            seconds = self._resume_grace
            if self._moving:
                seconds = max(seconds, MOVE_SECONDS)
            self._grace = asyncio.get_running_loop().call_later(seconds, self._abandon)

    def _abandon(self) -> None:
        """End it: nobody has come back in time."""
        self.cancel(AnswerOutcome("abandoned"))


MOVE_SECONDS: Final = 10.0
"""Seconds at least that viewers whom this server has sent away get to come back on another."""
_RESUMES_KEPT: Final = 16
"""Number of resumes of one answer whose times are kept."""


def request_bytes(request: ChatRequest) -> int:
    """Return the memory that a request takes: itself, and a copy as it is sent upstream."""
    return 2 * (len(request.parameters) + len(request.stream_options or b""))


def _model_of(chunks: list[bytes]) -> str:
    """Return the model that the first chunk names; ``""`` where it names none."""
    try:
        first = orjson.loads(chunks[0])
    except (IndexError, orjson.JSONDecodeError):
        return ""
    model = first.get("model") if isinstance(first, dict) else None
    return model if isinstance(model, str) else ""
