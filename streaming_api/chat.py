"""Chat answers: a generation fills one stream from the upstream; a registry keeps and finds them.

An answer is known by who started it and its ``request_id``: somebody else's is simply not there.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final, Protocol

import attrs
import orjson

from streaming_api.commands import ChatRequest, OnDisconnect
from streaming_api.config import StreamingConfig
from streaming_api.errors import Gone, NotFound, TooMany, Unavailable
from streaming_api.messages import CHAT, notice
from streaming_api.stream import Line, Policy, Retention, Stream
from streaming_api.upstreams.gateway import Ending, Exchange
from streaming_api.upstreams.pool import Pool
from streaming_api.upstreams.reply_errors import UpstreamError, UpstreamFailed
from streaming_api.viewer import Viewer

if TYPE_CHECKING:
    from streaming_api.connection import Connection
    from streaming_api.doors import Client
    from streaming_api.upstreams.upstream import Upstream

logger = logging.getLogger(__name__)

_KEPT_BYTES: Final = 64 * 2**20
"""What all answers that have ended may hold together; the oldest go first."""
_WEIGHT: Final = 8 * 2**10
"""Bytes of memory that an answer takes beside its messages: many short ones count, too."""
_EVICTION_SECONDS: Final = 5.0
"""Seconds between two looks for answers whose time is over, when nobody starts or asks for any."""
_EVICTED_KEPT: Final = 10_000
"""How many request_ids are remembered after their answers, so that they get 410 and not 404."""


class Watcher(Protocol):
    """What a registry tells of answers, for figures."""

    def answer_ended(self, outcome: str, chunks: int) -> None:
        """An answer has ended."""


@attrs.frozen
class Outcome:
    """How an answer ended.

    Attributes:
        finish_reason: the model's own, or ``cancelled``, ``incomplete``, ``error``.
        error: what went wrong, if something did.
    """

    finish_reason: str
    error: UpstreamError | None = None


class Generation:
    """One answer: its stream, and the task that fills it from the upstream.

    Attributes:
        outcome: how it ended; None as long as it runs.
        place: in the queue for an upstream connection; 0 when it has one.
        on_begun: called once when the first chunk or the end is there.
        on_ended: called once when it has ended.
    """

    def __init__(self, chat: Chat, request: ChatRequest, client: Client) -> None:
        self.chat = chat
        self.request = request
        self.request_id = request.request_id
        self.owner = client.owner
        self.asked_by = client.name
        self.outcome: Outcome | None = None
        self.place = 0
        self.chunks = 0
        self.on_begun: list[Callable[[], None]] = []
        self.on_ended: list[Callable[[], None]] = []
        self.started = time.monotonic()
        self.ended = 0.0
        self._first: float | None = None
        self._exchange: Exchange | None = None
        self._stopped: Outcome | None = None  # why we ended it ourselves
        self._grace: asyncio.TimerHandle | None = None
        self.line = chat.new_line(self.request_id)
        self.stream = Stream(
            self.line,
            f"chat/{self.request_id}",
            CHAT,
            Policy.LOSSLESS,
            chat.retention,
            request_id=self.request_id,
        )
        self.watched = frozenset(self.line.streams)
        self.line.on_unwatched = self._unwatched
        self._task = asyncio.create_task(
            self._run(client.authorization), name=f"chat {self.request_id}"
        )
        self._task.add_done_callback(self._ended_before_it_ran)

    def __repr__(self) -> str:
        state = self.outcome.finish_reason if self.outcome else "queued" if self.place else "runs"
        return f"<Generation {self.request_id} {state}, {self.chunks} chunks>"

    @property
    def begun(self) -> bool:
        """Whether the first chunk or the end is there."""
        return self._first is not None or self.outcome is not None

    def cancel(self, outcome: Outcome | None = None) -> None:
        """End it: the upstream's connection is closed at once. Harmless when it has ended."""
        if self.outcome is None and self._stopped is None:
            self._stopped = outcome or Outcome("cancelled")
            self._task.cancel()

    # Filling the stream

    async def _run(self, authorization: str | None) -> None:
        ending = _NOTHING
        try:
            await self.chat.pool.acquire(self._queued)
            try:
                self._queued(0)
                gateway = await self.chat.upstream.ready()
                self._exchange = gateway.exchange(
                    self.chat.body(self.request),
                    self._chunks,
                    stream=self.request.stream,
                    authorization=None if self.chat.upstream.model else authorization,
                    usage_asked=self.request.usage_asked,
                )
                ending = await self._exchange.run()
            finally:
                self.chat.pool.release()
        except asyncio.CancelledError:
            if self._stopped is None:
                self._stopped = Outcome("incomplete", _SERVER_STOPPED)
        except UpstreamFailed as failed:
            self._stopped = Outcome("error", failed.error)
        except Exception:
            logger.exception("the answer %s failed", self.request_id)
            self._stopped = Outcome("error", _OUR_BUG)
        self._end(ending)

    def _ended_before_it_ran(self, _: asyncio.Task[None]) -> None:
        if self.outcome is None:  # cancelled before the task's first step
            self._end(_NOTHING)

    def _chunks(self, chunks: list[bytes]) -> None:
        """The hot path: what one read of the upstream brought goes on the stream as it is."""
        if self._first is None:
            self._first = time.monotonic()
            chunks = self._mark_substitution(chunks)
            self.chunks = len(chunks)
            self.line.append(self.stream, chunks)
            _tell(self.on_begun)
        else:
            self.chunks += len(chunks)
            self.line.append(self.stream, chunks)
        if self.line.full and self._exchange is not None:
            self.line.on_room = self._exchange.resume_reading
            self._exchange.pause_reading()

    def _mark_substitution(self, chunks: list[bytes]) -> list[bytes]:
        """The first chunk says so when another model answers than the one that was asked for."""
        substitute = self.chat.substitute(self.request)
        if substitute is None or not chunks:
            return chunks
        told = orjson.dumps({"requested": self.request.model, "model": substitute})
        first = b'{"model_substituted":%b,%b' % (told, chunks[0].lstrip()[1:])
        return [first, *chunks[1:]]

    def _end(self, ending: Ending) -> None:
        self.outcome = outcome = self._stopped or _outcome(ending)
        self.ended = now = time.monotonic()
        self.place = 0
        if self._grace is not None:
            self._grace.cancel()
        usage, source = _usage(ending, self.chunks)
        data: dict[str, object] = {
            "object": "chat.completion.end",
            "finish_reason": outcome.finish_reason,
            "usage": usage,
            "usage_source": source,
        }
        if outcome.error is not None:
            data["error"] = error_body(outcome.error)
        if (substitute := self.chat.substitute(self.request)) is not None:
            data["model_substituted"] = {"requested": self.request.model, "model": substitute}
        first = None if self._first is None else round((self._first - self.started) * 1000, 3)
        data["timing"] = {
            "time_to_first_chunk_ms": first,
            "total_ms": round((now - self.started) * 1000, 3),
            "chunks": self.chunks,
        }
        self.chat.ended(self)
        self.line.end(self.stream, orjson.dumps(data))
        _tell(self.on_begun)
        _tell(self.on_ended)

    def _queued(self, place: int) -> None:
        if place != self.place:
            self.place = place
            if place:
                for viewer in self.line.viewers():
                    viewer.connection.send(self.queue_notice(), CHAT)

    def queue_notice(self) -> bytes:
        """Says which place in the queue the answer has."""
        return notice(
            CHAT,
            {"event": "queued", "position": self.place},
            stream=self.stream.name,
            request_id=self.request_id,
        )

    # Audience

    def watch(self, connection: Connection, after: int) -> Viewer:
        """Show this answer on a connection, from strictly after a sequence_id.

        What is no longer retained is told first; an ``after`` that was never sent is told, too, and
        the answer shown from its start.
        """
        viewer = self.attach(connection)
        if after > self.line.number:
            viewer.tell_gap(self.stream, "future", None, None)
            after = 0
        if self.stream.evicted > after:
            viewer.tell_gap(self.stream, "evicted", after + 1, self.stream.evicted)
            after = self.stream.evicted
        viewer.resume(after)
        if self.place:
            connection.send(self.queue_notice(), CHAT)
        return viewer

    def attach(self, connection: Connection) -> Viewer:
        """Count a connection among those who watch, before anything is shown on it."""
        if self._grace is not None:
            self._grace.cancel()
            self._grace = None
        viewer = Viewer(connection, self.line, self.watched)
        viewer.attach(0)
        return viewer

    def settle(self) -> None:
        """If nobody watches, what ``on_disconnect`` says happens."""
        if not self.line.watched:
            self._unwatched()

    def _unwatched(self) -> None:
        if self.outcome is not None or self._stopped is not None:
            return
        if self.request.on_disconnect is OnDisconnect.CANCEL:
            self.cancel()
        elif self.request.on_disconnect is OnDisconnect.GRACE and self._grace is None:
            loop = asyncio.get_running_loop()
            self._grace = loop.call_later(self.chat.resume_grace, self.cancel)


_NOTHING: Final = Ending(finish_reason=None, usage=None, error=None, content_chunks=0)
_SERVER_STOPPED: Final = UpstreamError(
    status=None,
    type="server_error",
    code="server_stopping",
    message="The server is stopping; send the request again.",
)
_OUR_BUG: Final = UpstreamError(
    status=None,
    type="server_error",
    code="internal_error",
    message="The server failed to relay this answer; the operator finds the reason in its log.",
)
_NO_REASON: Final = UpstreamError(
    status=None,
    type="upstream_error",
    code="upstream_incomplete",
    message="The upstream stopped without saying why: the answer may be cut short.",
)


def _tell(callbacks: list[Callable[[], None]]) -> None:
    told, callbacks[:] = tuple(callbacks), ()
    for callback in told:
        callback()


def _outcome(ending: Ending) -> Outcome:
    """An honest end: never ``stop`` unless the model said so."""
    error = ending.error
    if error is not None and error.code != "upstream_disconnected":
        return Outcome("error", error)
    if ending.finish_reason is None:
        return Outcome("incomplete", error or _NO_REASON)
    return Outcome(ending.finish_reason, error)


def _usage(ending: Ending, chunks: int) -> tuple[dict[str, object] | None, str | None]:
    if ending.usage is not None:
        return ending.usage, "reported"
    if not chunks:
        return None, None
    produced = ending.content_chunks or chunks
    return {"completion_tokens": produced}, "estimated"


def error_body(error: UpstreamError) -> dict[str, object]:
    """OpenAI's error object for an upstream's error."""
    body: dict[str, object] = {
        "type": error.type,
        "code": error.code,
        "message": error.message,
        "param": error.param,
    }
    if error.status is not None:
        body["status"] = error.status
    return body


class Chat:
    """All answers: those that run, and those that are kept to be resumed.

    Args:
        new_line: makes the line of an answer, by its request_id.
        watcher: told of every answer's end.
    """

    def __init__(
        self,
        config: StreamingConfig,
        upstream: Upstream,
        new_line: Callable[[str], Line],
        watcher: Watcher,
    ) -> None:
        self.upstream = upstream
        self.pool = Pool(config.pool_size, config.max_queued)
        self.new_line = new_line
        self.resume_grace = config.resume_grace
        self.retention = Retention(
            bytes=config.chat_retention_bytes,
            messages=config.chat_retention_messages,
            seconds=config.chat_retention_seconds,
        )
        self.draining = False
        self._enabled = config.chat_enabled
        self._answers_per_key = config.answers_per_key
        self._watcher = watcher
        self._answers: dict[tuple[str, str], Generation] = {}
        self._kept: OrderedDict[tuple[str, str], Generation] = OrderedDict()  # ended, oldest first
        self._kept_bytes = 0
        self._evicted: OrderedDict[tuple[str, str], None] = OrderedDict()

    def __repr__(self) -> str:
        return f"<Chat {len(self.running)} running, {len(self._kept)} kept>"

    @property
    def running(self) -> list[Generation]:
        """Answers that have not ended, those in the queue included."""
        return [answer for answer in self._answers.values() if answer.outcome is None]

    @property
    def queued(self) -> int:
        """Answers that wait for an upstream connection."""
        return self.pool.queued

    def require(self) -> None:
        """Nothing, if this server answers chats.

        Raises:
            NotFound: it does not.
        """
        if not self._enabled:
            message = "Chat is switched off here (streaming.chat_enabled)."
            raise NotFound(message, "chat_disabled")

    def start(self, request: ChatRequest, client: Client) -> Generation:
        """The answer of this request_id: a new one, or the one that is known already.

        Raises:
            Unavailable: this server is stopping, or the queue for upstream connections is full.
            TooMany: the key has as many answers running as it may.
        """
        owner = client.owner
        key = (owner, request.request_id)
        self.evict()
        known = self._answers.get(key)
        if known is not None:
            return known
        if self.draining:
            message = "This server is stopping; send the request again."
            raise Unavailable(message, "draining", retry_after=1)
        running = len(self._answers) - len(self._kept)
        self.pool.check(arriving=running - self.pool.busy - self.pool.queued)
        if self._answers_per_key:
            mine = sum(answer.asked_by == client.name for answer in self.running)
            if mine >= self._answers_per_key:
                message = f"{mine} answers are running for this key; wait for one to end."
                raise TooMany(message, "too_many_answers", retry_after=1)
        self._evicted.pop(key, None)
        answer = self._answers[key] = Generation(self, request, client)
        return answer

    def find(self, owner: str, request_id: str) -> Generation:
        """The answer of this owner with this request_id.

        Raises:
            NotFound: there is none; somebody else's counts as none.
            Gone: there was one, and it is no longer kept.
        """
        self.evict()
        key = (owner, request_id)
        answer = self._answers.get(key)
        if answer is not None:
            return answer
        if key in self._evicted:
            message = f"The answer {request_id} has ended and is no longer kept; ask again."
            raise Gone(message, "stream_evicted", param="request_id")
        message = f"There is no answer {request_id}; start it first."
        raise NotFound(message, "stream_not_found", param="request_id")

    def ended(self, answer: Generation) -> None:
        """Keep an answer that has ended for as long as the retention says."""
        self._kept[answer.owner, answer.request_id] = answer
        self._kept_bytes += answer.stream.bytes + _WEIGHT
        assert answer.outcome is not None
        self._watcher.answer_ended(answer.outcome.finish_reason, answer.chunks)
        self.evict()

    def evict(self) -> None:
        """Forget answers whose time is over."""
        before = time.monotonic() - self.retention.seconds
        while self._kept:
            key, answer = next(iter(self._kept.items()))
            if answer.ended > before and self._kept_bytes <= _KEPT_BYTES:
                return
            self._kept_bytes -= answer.stream.bytes + _WEIGHT
            del self._kept[key], self._answers[key]
            self._evicted[key] = None
            if len(self._evicted) > _EVICTED_KEPT:
                self._evicted.popitem(last=False)

    async def keep_evicting(self) -> None:
        """Forget them also while nobody starts an answer or asks for one."""
        while True:
            await asyncio.sleep(_EVICTION_SECONDS)
            self.evict()

    def substitute(self, request: ChatRequest) -> str | None:
        """The model that answers instead of the one that was asked for; None if that one does."""
        return self.upstream.substitute(request.model)

    def body(self, request: ChatRequest) -> bytes:
        """What is sent upstream: the client's own fields, the model's name and usage asked for."""
        fields: dict[str, object] = dict(request.parameters)
        model = self.substitute(request) or request.model
        if model is not None:
            fields["model"] = model
        fields["stream"] = request.stream
        if request.stream:
            options = fields.get("stream_options")
            fields["stream_options"] = {
                **(options if isinstance(options, Mapping) else {}),
                "include_usage": True,
            }
        return orjson.dumps(fields)

    async def drain(self, seconds: float) -> None:
        """Give running answers so long to end, then end them as incomplete."""
        self.draining = True
        tasks = [answer._task for answer in self.running]  # noqa: SLF001 (its own registry)
        if tasks:
            await asyncio.wait(tasks, timeout=seconds)
        for answer in self.running:
            answer.cancel(Outcome("incomplete", _SERVER_STOPPED))
        if tasks:
            await asyncio.wait(tasks, timeout=2)


