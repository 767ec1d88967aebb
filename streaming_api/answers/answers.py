"""Answers: those that run and those that are kept; started, found, evicted, drained.

An answer is known by its owner and its ``request_id``: to other clients it does not exist.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final, Protocol

from streaming_api.access import audit
from streaming_api.answer_record import AnswerRecord, PassedOnRecord
from streaming_api.answers.answer import Answer, request_bytes
from streaming_api.answers.elsewhere import Elsewhere, Key, Remote
from streaming_api.answers.ending import SERVER_STOPPED
from streaming_api.answers.evicted import Evicted
from streaming_api.answers.passed_on import PassedOn
from streaming_api.answers.queue import AnswerQueue
from streaming_api.answers.quotas import Quotas
from streaming_api.answers.request import UpstreamRequest
from streaming_api.answers.watched_answer import AnswerOutcome, WatchedAnswer
from streaming_api.config import StreamingConfig
from streaming_api.engine.budget import ANSWER_BYTES, Account, Budget, Share
from streaming_api.engine.channel import Channel
from streaming_api.engine.stream import Retention
from streaming_api.engine.turn import Turn
from streaming_api.errors import ApiError, Gone, NotFound, TooMany, Unavailable
from streaming_api.wire.commands import ChatRequest

if TYPE_CHECKING:
    from streaming_api.access.client import Client
    from streaming_api.upstreams.upstream import Upstream

_EVICTION_SECONDS: Final = 5.0
"""Seconds between two searches for expired answers, when nobody starts or asks for any."""
_EVICTED_KEPT: Final = 10_000
"""Number of request_ids remembered after their answers are gone, so that they get 410, not 404."""
_READ_BYTES: Final = 512 * 2**10
"""What an answer may hold more when it has read once: 256 KiB, in messages."""
_SPARE: Final = 16
"""The share of a limit that is freed when it is exceeded, to stay below it for a while."""


class Watcher(Protocol):
    """Is notified of the progress of answers, for figures."""

    def answer_begun(self, seconds: float) -> None:
        """Note that the first chunk of an answer came after this number of seconds."""

    def answer_ended(self, record: AnswerRecord) -> None:
        """Note that an answer has ended."""


class Answers:
    """All answers: those that run, and those that are kept to be resumed.

    Args:
        new_channel: makes the channel of an answer, by its request_id.
        watcher: notified of every answer's end.
        budget: counts their memory; None for no limit.

    Attributes:
        turn: shows what the upstream has sent to all of them in one turn of the event loop.
        passed_on: requests that are passed on as they are; they count as answers of their key.
        waiting: answers that read on when there is memory again, first come, first served.
    """

    def __init__(
        self,
        config: StreamingConfig,
        upstream: Upstream,
        new_channel: Callable[[str], Channel],
        watcher: Watcher,
        budget: Budget | None = None,
    ) -> None:
        self.budget = budget or Budget()
        self.budget.relieve = self.relieve
        self.waiting: dict[Answer, None] = {}
        self._left: dict[Channel, Share] = {}  # evicted, but still watched at the last check
        self.upstream = upstream
        self.queue = AnswerQueue(config.pool_size, config.max_queued)
        self.turn = Turn()
        self._new_channel = new_channel
        self.apply(config)
        self.draining = False
        self.remote: Remote | None = None
        self._enabled = config.streaming_chat_enabled
        self._watcher = watcher
        self.quotas = Quotas()
        self.passed_on = PassedOn()
        self._answers: dict[Key, Answer] = {}
        self._kept: OrderedDict[Key, Answer] = OrderedDict()  # ended, oldest first
        self._evicted = Evicted(_EVICTED_KEPT)

    def apply(self, config: StreamingConfig) -> None:
        """Apply this configuration from now on; running answers keep what they have."""
        self.queue.size, self.queue.max_queued = config.pool_size, config.max_queued
        self._answers_per_key = config.answers_per_key
        self._most_kept = config.chat_kept_bytes
        self._resume_grace = config.resume_grace
        self.retention = Retention(
            bytes=config.chat_retention_bytes,
            messages=config.chat_retention_messages,
            seconds=config.chat_retention_seconds,
        )

    def __repr__(self) -> str:
        return f"<Answers {len(self.running)} running, {len(self._kept)} kept>"

    @property
    def running(self) -> list[Answer]:
        """Answers that have not ended, including those in the queue."""
        return [answer for answer in self._answers.values() if answer.outcome is None]

    @property
    def queued(self) -> int:
        """Number of answers that wait for an upstream connection."""
        return self.queue.queued

    def require(self) -> None:
        """Check that this server answers chats.

        Raises:
            NotFound: it does not.
        """
        if not self._enabled:
            message = "Chat is switched off here (streaming.chat_enabled)."
            raise NotFound(message, "chat_disabled")

    def start(self, request: ChatRequest, client: Client) -> WatchedAnswer:
        """Return the answer for this request_id: a new one, or the one that is known already.

        Raises:
            Elsewhere: another process may have it.
            Unavailable: this server is stopping, or the queue for upstream connections is full.
            TooMany: the key has reached its limit of running answers or its share of the memory.
        """
        try:
            return self._start(request, client)
        except ApiError:
            if self.remote is not None:
                self.remote.refused(request, client)
            raise

    def _start(self, request: ChatRequest, client: Client) -> WatchedAnswer:
        key = (client.owner, request.request_id)
        self.evict()
        known = self._known(key)
        if known is not None:
            return known
        self.check(client, request.model)
        share = self.budget.share(client.name)
        share.check(request_bytes(request) + ANSWER_BYTES)
        remote = self.remote
        if remote is not None and not remote.may_start(request, client):
            raise self.holding(Elsewhere(lambda: remote.claim(request, client)), request, client)
        if request.chosen:  # an id that is made here was never used, and is not worth the search
            self._evicted.discard(key)
        answer = self._answers[key] = Answer(
            UpstreamRequest(self.upstream, request),
            client,
            channel=self._new_channel(request.request_id),
            queue=self.queue,
            retention=self.retention,
            resume_grace=self._resume_grace,
            observer=self,
            account=Account(share, self.budget.running),
        )
        if remote is not None:
            remote.started(answer)
        return answer

    def check(self, client: Client, model: str | None) -> None:
        """Check that a client may ask for one answer more, here and now.

        Raises:
            Unavailable: this server is stopping, or the queue for upstream connections is full.
            TooMany: the key has reached its limit of running answers or of tokens.
            Forbidden: the key may not ask this model.
        """
        if self.draining:
            message = "This server is stopping; send the request again."
            raise Unavailable(message, "draining", retry_after=1)
        running = len(self._answers) - len(self._kept) + len(self.passed_on)
        self.queue.check(arriving=running - self.queue.busy - self.queue.queued)
        own = client.key.answers if client.key is not None else 0
        for limit in (self._answers_per_key, own):
            if limit and (mine := self.running_of(client)) >= limit:
                message = f"{mine} answers are running for this key; wait for one to end."
                raise TooMany(message, "too_many_answers", retry_after=1)
        if client.key is not None:
            self.quotas.check(client.key, model)

    def holding(self, elsewhere: Elsewhere, request: ChatRequest, client: Client) -> Elsewhere:
        """Return the same, with the request counted for as long as it waits."""
        return elsewhere.holding(request_bytes(request), self.budget.share(client.name))

    def running_of(self, client: Client) -> int:
        """Return how many answers of a client's key run here, or are passed on."""
        answers = sum(answer.asked_by == client.name for answer in self.running)
        return answers + self.passed_on.of(client.name)

    def running_by_key(self) -> Counter[str]:
        """Return how many answers of each key run here."""
        return Counter(answer.owner for answer in self.running)

    def rate_limit_headers(self, client: Client) -> dict[str, str]:
        """Return the ``x-ratelimit-*`` headers for a client whose key has limits of its own."""
        key = client.key
        if key is None or not (key.answers or key.tokens_per_minute or key.tokens_per_day):
            return {}
        elsewhere = 0 if self.remote is None else self.remote.running_elsewhere(client.owner)
        return self.quotas.headers(key, self.running_of(client) + elsewhere)

    def _known(self, key: Key) -> WatchedAnswer | None:
        answer = self._answers.get(key)
        return answer if answer is not None or self.remote is None else self.remote.get(key)

    def local(self, key: Key) -> Answer | None:
        """Return an answer of this process, if it is here."""
        return self._answers.get(key)

    @property
    def present(self) -> list[Answer]:
        """Every answer of this process, running or kept."""
        return list(self._answers.values())

    def find(self, owner: str, request_id: str) -> WatchedAnswer:
        """Return the answer of this owner with this request_id.

        Raises:
            Elsewhere: another process may have it.
            NotFound: there is none; an answer of another owner counts as none.
            Gone: there was one, and it is no longer kept.
        """
        self.evict()
        key = (owner, request_id)
        answer = self._known(key)
        if answer is not None:
            return answer
        remote = self.remote
        if remote is not None:
            if (error := remote.absent(key)) is not None:
                raise error
            raise Elsewhere(lambda: remote.fetch(key))
        raise gone(request_id) if key in self._evicted else not_found(request_id)

    def begun(self, seconds: float) -> None:
        """Note how long an answer took to begin."""
        self._watcher.answer_begun(seconds)

    def has_room(self, answer: Answer) -> bool:
        """Return whether an answer may read on; if not, it will when there is room.

        One with no lagging viewer holds nothing: it goes on even though its share is used up.
        """
        if self.relieve(answer.share):
            return True
        if self.budget.bytes <= self.budget.limit and not answer.lags:
            return True
        self.waiting[answer] = None
        return False

    def ended(self, answer: Answer) -> None:
        """Keep an answer that has ended for as long as the retention says."""
        self._kept[answer.owner, answer.request_id] = answer
        self.waiting.pop(answer, None)
        answer.account.become(self.budget.kept)
        answer.share.kept += 1
        record = answer.record
        assert record is not None
        if record.key:
            self.quotas.spend(record.key, (record.input_tokens or 0) + record.output_tokens)
        self._watcher.answer_ended(record)
        if self.remote is not None:
            self.remote.ended(answer)
        self.evict()

    def passed(self, record: PassedOnRecord) -> None:
        """Count what a request has used that was passed on."""
        self.quotas.spend(record.key, record.input_tokens + record.output_tokens)
        if self.remote is not None:
            self.remote.spent(record)

    def cancel(self, answer: WatchedAnswer, client: Client) -> None:
        """End an answer if it runs, as a client asks; its device need not be the one that began."""
        if answer.outcome is None:
            audit.answer_cancelled(client, answer.request_id)
        answer.cancel()

    def delete(self, answer: WatchedAnswer) -> None:
        """End an answer if it runs, and stop keeping it."""
        if answer.elsewhere:  # whoever fills it ends it
            self.forget(answer)
            return
        answer.cancel()
        if answer.outcome is None:
            answer.on_ended.append(lambda: self.forget(answer))
        else:
            self.forget(answer)

    def forget(self, answer: WatchedAnswer) -> None:
        """Keep an answer only while it runs; one that has ended is dropped at once."""
        key = (answer.owner, answer.request_id)
        if key in self._kept:
            self._drop(key)
        if self.remote is not None:
            self.remote.forget(answer)

    def evict(self) -> None:
        """Forget expired answers, and evicted ones that nobody reads any more."""
        self._left = {channel: share for channel, share in self._left.items() if channel.watched}
        before = time.monotonic() - self.retention.seconds
        while self._kept:
            key, answer = next(iter(self._kept.items()))
            if answer.ended > before and self.budget.kept.bytes <= self._most_kept:
                return
            del answer  # otherwise it would be counted while the next is checked
            self._evict(key)

    def _evict(self, key: Key) -> None:
        self._drop(key)
        self._evicted.add(key)

    def _drop(self, key: Key) -> None:
        """Stop keeping an answer; viewers that still read it do so on its channels."""
        answer = self._kept.pop(key)
        del self._answers[key]
        answer.share.kept -= 1
        answer.account.become(self.budget.evicted)
        for channel in answer.channels:
            if channel.watched:
                self._left[channel] = answer.share

    # Memory

    def relieve(self, share: Share, size: int = 0) -> bool:
        """Make room for ``size`` more bytes of a share; return whether there is room."""
        for whose, limits in ((share, share), (None, self.budget)):
            if limits.bytes + size > limits.limit:
                spare = size + limits.limit // _SPARE
                for _ in self._given_up(whose):
                    if limits.bytes + spare <= limits.limit:
                        break
        return share.fits(size)

    def _given_up(self, share: Share | None) -> Iterator[None]:
        """Give up one thing after another, of one share or of all, in the order of least harm.

        What is kept for those who may come back goes first: unwatched mirrors, which can be had
        again; answers that have ended, oldest first; then, of running answers, what all viewers
        have seen. Then slow viewers are cut off: those of evicted answers and, where the memory of
        all is used up, those of running answers, largest first.
        """
        if self.remote is not None:
            yield from self.remote.unwatched(share)
        if share is None or share.kept:
            for key in [key for key, kept in self._kept.items() if share in {None, kept.share}]:
                self._evict(key)
                yield
        for answer in self._largest(share):
            answer.let_go()
            yield
        for _ in range(len(self._left)):
            channel, whose = next(iter(self._left.items()))
            del self._left[channel]
            if share in {None, whose}:
                channel.cut_lagging()
            if channel.watched:
                self._left[channel] = whose  # behind the others
            del channel  # it is freed before the next is looked at
            yield
        for answer in self._largest(None) if share is None else ():
            answer.cut_lagging()
            yield

    def _largest(self, share: Share | None) -> list[WatchedAnswer]:
        """Return answers that run, here or as mirrors, of one share or of all, largest first."""
        running: list[WatchedAnswer] = [a for a in self.running if share in {None, a.share}]
        if self.remote is not None:
            running += self.remote.watched(share)
        return sorted(running, key=lambda answer: answer.account.bytes, reverse=True)

    def read_on(self) -> None:
        """Resume answers that waited for memory: of those with lagging viewers, as many as fit.

        Who keeps up goes first, and holds nothing.
        """
        waiting, self.waiting = self.waiting, {}
        resumed = 0
        for answer in sorted(waiting, key=lambda answer: answer.lags):
            room = self.budget.limit - self.budget.bytes - resumed * _READ_BYTES
            if resumed and room < 0:
                self.waiting[answer] = None
            elif self.has_room(answer):
                resumed += answer.lags
                answer.go_on()

    async def keep_evicting(self) -> None:
        """Evict even while nobody starts an answer or asks for one."""
        while True:
            await asyncio.sleep(_EVICTION_SECONDS)
            self.evict()

    async def drain(self, seconds: float) -> None:
        """Give what runs this many seconds to end, then end answers as incomplete, cut the rest."""
        self.draining = True
        await asyncio.gather(self._drain_answers(seconds), self.passed_on.drain(seconds))

    async def _drain_answers(self, seconds: float) -> None:
        tasks = [answer.task for answer in self.running]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                if tasks:
                    await asyncio.wait(tasks)
                await self.queue.emptied()  # of requests that are passed on
        for answer in self.running:
            answer.cancel(AnswerOutcome("incomplete", SERVER_STOPPED))
        if tasks:
            await asyncio.wait(tasks, timeout=2)


def not_found(request_id: str) -> NotFound:
    """Return the error for an answer that does not exist, or that another owner has."""
    message = f"There is no answer {request_id}; start it first."
    return NotFound(message, "stream_not_found", param="request_id")


def gone(request_id: str) -> Gone:
    """Return the error for an answer that existed and is no longer kept."""
    message = f"The answer {request_id} has ended and is no longer kept; ask again."
    return Gone(message, "stream_evicted", param="request_id")
