"""Cluster: this process as one of several. Knows the answers; only ``app`` knows it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Final, Protocol

import attrs

from streaming_api.answers.answers import Answers, not_found
from streaming_api.answers.elsewhere import Key
from streaming_api.cluster.agreement import about, difference
from streaming_api.cluster.claims import Claims
from streaming_api.cluster.connection import Message, StoreError
from streaming_api.cluster.exchange import Exchange
from streaming_api.cluster.figures import Figures
from streaming_api.cluster.health import Health
from streaming_api.cluster.meta import Meta, key_of, ref_of
from streaming_api.cluster.mirror import Mirror
from streaming_api.cluster.mirrors import Mirrors
from streaming_api.cluster.outbox import Outbox
from streaming_api.cluster.owner import Owner, end_sealed
from streaming_api.cluster.presence import Counts, Presence
from streaming_api.cluster.rates import Rates
from streaming_api.cluster.reader import Reader
from streaming_api.cluster.shared import SharedBindings, Tickets, unavailable
from streaming_api.cluster.store import FORGET_SECONDS, RUNNING_SECONDS, Store
from streaming_api.cluster.topics import SharedTopics
from streaming_api.cluster.usage import Usage
from streaming_api.cluster.writer import Writer

if TYPE_CHECKING:
    from streaming_api.access.client import Client
    from streaming_api.access.policy import Policy
    from streaming_api.answer_record import Used
    from streaming_api.answers.answer import Answer
    from streaming_api.answers.watched_answer import WatchedAnswer
    from streaming_api.background import Background
    from streaming_api.config import StreamingConfig
    from streaming_api.engine.budget import Share
    from streaming_api.engine.channel import Channel
    from streaming_api.errors import ApiError
    from streaming_api.topics import Topics
    from streaming_api.wire.commands import ChatRequest

logger = logging.getLogger(__name__)

RENEW_TICKS: Final = 60


class Admission(Protocol):
    """What counts the connections of this process. A type.

    Attributes:
        per_address: the number of connections, by address.
        full: addresses that have as many connections as they may, in all processes together.
    """

    per_address: Counter[str]
    full: frozenset[str]


class Cluster:
    """Answers of other processes here, and answers of this process there.

    Args:
        config: a configuration with ``cluster_url``.
        answers: the answers of this process.
        access: its rates.
        admission: its connections.
        new_channel: makes the channel of a mirror.
        topics: the topics of this process.
        failures: failures of background work, counted by name.

    Attributes:
        instance: the name of this process, new at each start.
        on_webhook: called with what Alertmanager's webhook said to any process, in the one that
            makes the topics.
        topics: the topics of all processes.
        usage: what each key has used, in all processes together.
    """

    def __init__(
        self,
        config: StreamingConfig,
        answers: Answers,
        access: Policy,
        admission: Admission,
        new_channel: Callable[[str], Channel],
        topics: Topics,
        failures: Counter[str],
    ) -> None:
        assert config.cluster_url is not None
        self.instance = f"{config.cluster_name or 'streaming-api'}-{secrets.token_hex(6)}"
        self.figures = Figures()
        self.on_webhook: Callable[[bytes], None] = lambda _: None
        self.store = Store(config.cluster_url, config.cluster_prefix)
        self._answers = answers
        self._components = topics.own
        self._lease = config.cluster_lease
        kept = max(1, round(config.chat_retention_seconds))
        interval = config.cluster_flush_interval / 1000
        self._outbox = Outbox(self.store, self.instance, self.figures)
        self._writer = Writer(self.store, self.figures, interval, kept, end_sealed)
        self._owner = Owner(answers, self._writer, self._outbox)
        self.topics = SharedTopics(
            self.store, self.instance, self._lease, topics, failures, self._hear
        )
        self._reader = Reader(
            self.store,
            self.instance,
            self.figures,
            self.topics.reader,
            self._receive,
            self._repair,
        )
        self._mirrors = Mirrors(
            self.store, self._outbox, self.figures, answers, new_channel, kept, self._reader.soil
        )
        self._claims = Claims(
            self.store,
            self._outbox,
            self.figures,
            config.answers_per_key,
            self._lease,
            self._mirrors.show,
        )
        self.usage = Usage(self.store, self.instance, answers.quotas)
        self._admission = admission
        self._leaving = False
        self._presence = Presence(
            self.store, self.instance, self._lease, self._counts, self._note_full
        )
        rates = Rates(self.store, lambda: access.rates)
        self._exchange = Exchange(self.store, self.figures, [self.usage, rates, self._presence])
        self.apply(config)
        self._health = Health(
            self.store,
            self.instance,
            self._lease,
            self.figures,
            self._reader,
            self._writer,
            self._mirrors,
        )
        self._differs: str | None = None
        self.tickets = Tickets(self.store, self._outbox.ask)
        self.bindings = SharedBindings(
            self.store, self.instance, self._outbox.ask, self._outbox.insist
        )
        answers.remote = self

    def __repr__(self) -> str:
        recordings = len(self._writer.recordings)
        return f"<Cluster {self.instance}, {recordings} recorded, {len(self.mirrors)} mirrored>"

    @property
    def lag(self) -> int:
        """Number of messages shown here and not yet in the store."""
        return self._writer.lag

    @property
    def trips(self) -> int:
        """How many round trips to the store there were."""
        return self.store.trips + self._health.beats

    @property
    def mirrors(self) -> Mapping[Key, Mirror]:
        """Answers of other processes that are shown here."""
        return self._mirrors.present

    # For Answers

    def get(self, key: Key) -> WatchedAnswer | None:
        """See `Remote`."""
        mirror = self._mirrors.present.get(key)
        return None if mirror is None or mirror.deleted else mirror

    def absent(self, key: Key) -> ApiError | None:
        """See `Remote`."""
        return self._claims.absent(key)

    async def fetch(self, key: Key) -> None:
        """See `Remote`."""
        await self._claims.fetch(key)

    def may_start(self, request: ChatRequest, client: Client) -> bool:
        """See `Remote`."""
        return self._claims.may_start(request, client)

    def refused(self, request: ChatRequest, client: Client) -> None:
        """See `Remote`."""
        self._claims.refused(request, client)

    async def claim(self, request: ChatRequest, client: Client) -> None:
        """See `Remote`."""
        key = client.key
        if key is not None and key.has_tokens:
            await self._exchange.fresh()
            self._answers.quotas.check(key, request.model)
        await self._claims.claim(request, client)

    def running_elsewhere(self, owner: str) -> int:
        """See `Remote`."""
        return self._presence.answers_elsewhere(owner)

    def started(self, answer: Answer) -> None:
        """See `Remote`."""
        key = (answer.owner, answer.request_id)
        about = Meta(self.instance, answer.asked_by, answer.request, answer.notes)
        recording = self._writer.add(key, answer, about)
        # in a moment: whoever has started it may still add notes
        asyncio.get_running_loop().call_soon(self._writer.hurry, recording)

    def ended(self, answer: Answer) -> None:
        """See `Remote`."""
        assert answer.record is not None
        self.spent(answer.record)
        self._claims.ended(answer)

    def spent(self, record: Used) -> None:
        """See `Remote`."""
        self.usage.add(record)
        if record.key in self._has_tokens:
            self._exchange.hurry()  # others may not ask for more

    def forget(self, answer: WatchedAnswer) -> None:
        """See `Remote`."""
        key = (answer.owner, answer.request_id)
        ref = ref_of(key)
        self._writer.recordings.pop(key, None)
        self._outbox.send(("DEL", self.store.key("m", ref)))
        self._outbox.send(("EXPIRE", self.store.key("a", ref), FORGET_SECONDS))
        if isinstance(answer, Mirror):
            answer.deleted = True
            self._outbox.notify(answer.instance, "forget", k=ref)
        self._claims.miss(key, not_found(key[1]))

    def unwatched(self, share: Share | None) -> Iterator[None]:
        """See `Remote`."""
        return self._mirrors.unwatched(share)

    def watched(self, share: Share | None) -> list[WatchedAnswer]:
        """See `Remote`."""
        return self._mirrors.watched(share)

    # Chats of the AI SDK

    def note_chat(self, key: Key, chat_id: str) -> None:
        """Share the newest answer of a chat with every process."""
        name = self.store.key("c", f"{key[0]}/{chat_id}")
        self._outbox.send(("SET", name, key[1], "EX", RUNNING_SECONDS))

    async def chat_answer(self, owner: str, chat_id: str) -> str | None:
        """Return the newest answer of a chat, as far as the store knows."""
        with contextlib.suppress(StoreError):
            (found,) = await self._outbox.ask(("GET", self.store.key("c", f"{owner}/{chat_id}")))
            return None if found is None else str(found.decode())
        return None

    # What all processes count together

    def apply(self, config: StreamingConfig) -> None:
        """Apply this configuration from now on, as far as it can be changed live."""
        self._has_tokens = {key.name for key in config.api_keys if key.has_tokens}
        self._claims.per_key = config.answers_per_key
        self._presence.most = config.max_connections_per_ip
        self._presence.about = attrs.evolve(about(config), leaving=self._leaving)

    def _counts(self) -> Counts:
        connections = self._admission.per_address if self._presence.most else {}
        return {"answers": self._answers.running_by_key(), "connections": connections}

    def _note_full(self, addresses: frozenset[str]) -> None:
        self._admission.full = addresses

    def _disagreement(self) -> str | None:
        """Return what is different between this process and the others; log it once."""
        found = difference(self._presence.about, self._presence.others.values())
        if found != self._differs:
            self._differs = found
            if found is not None:
                logger.warning("%s", found)
        return found

    async def used(self) -> bool:
        """Wait until all that was used before this call is in `usage`, if the store answers."""
        return await self._exchange.complete()

    # Tickets

    async def share_ticket(self, ticket: str, owner: str) -> bool:
        """Make a ticket valid on every process; return whether that could be done."""
        return await self.tickets.share(ticket, owner)

    async def redeem_ticket(self, ticket: str) -> str | None:
        """Return the owner of a ticket; None if the store does not know it, or cannot say."""
        with contextlib.suppress(StoreError):
            return await self.tickets.redeem(ticket)
        return None

    async def share_webhook(self, body: bytes) -> None:
        """Send what Alertmanager said to the process that makes the topics.

        Raises:
            Unavailable: it cannot be sent now; Alertmanager will repeat it.
        """
        try:
            await self._outbox.ask(*self.store.webhook(body))
        except StoreError:
            raise unavailable() from None

    def _hear(self, body: bytes) -> None:
        self.on_webhook(body)

    # The inbox

    def _receive(self, message: Message) -> None:
        """Do what another process asks for. Messages are hints: invalid ones are skipped."""
        with contextlib.suppress(ValueError):
            self._follow(message)

    def _follow(self, message: Message) -> None:
        kind = message.get(b"t", b"").decode()
        by = message.get(b"by", b"").decode()
        for line in message.get(b"k", b"").decode().split("\n"):
            ref, _, cursor = line.partition(" ")
            key = key_of(ref)
            if self._mirrors.receive(kind, key, message):
                continue
            if (recording := self._writer.recordings.get(key)) is not None:
                self._owner.asked_for(recording, kind, by, cursor)
            elif kind == "watch":
                self._outbox.notify(by, "unknown", k=ref)

    def _repair(self, mirror: Mirror) -> None:
        self._mirrors.repair(mirror)

    # Once a second

    async def _keep_looking(self) -> None:
        ticks = 0
        while True:
            await asyncio.sleep(1)
            ticks += 1
            self._mirrors.look()
            self._owner.look()
            self._outbox.repeat()
            due = self._claims.renew()
            if ticks % RENEW_TICKS == 0:
                due += self._writer.renew()
            await self._health.look(*due)
            reason = self.figures.reason or self._health.risk or self._disagreement()
            self._components.set("cluster", "up" if self.figures.up else "down", reason)

    # Life

    async def start(self, background: Background) -> None:
        """Join the other processes."""
        self._health.start()
        background.start("cluster writer", self._writer.run)
        background.start("cluster inbox", self._reader.keep_listening)
        background.start("cluster reader", self._reader.keep_reading)
        background.start("cluster exchange", self._exchange.keep_exchanging)
        background.start("cluster look", self._keep_looking)
        background.start("cluster turns", self._health.keep_turning)
        await self.topics.arrive(background)

    def leave(self) -> None:
        """Let the other processes know that this one stops."""
        self._leaving = True
        self._presence.about = attrs.evolve(self._presence.about, leaving=True)
        self._exchange.hurry()

    async def others_stay(self) -> bool:
        """Return whether another process stays, as far as the store knows."""
        if not await self._exchange.complete():  # they may be stopping just as this one is
            return False
        return any(not other.leaving for other in self._presence.others.values())

    def move(self, channels: AbstractSet[object]) -> None:
        """Expect that the viewers of these channels come back on another process."""
        for answer in (*self._answers.running, *self.mirrors.values()):
            if answer.channel in channels:
                answer.move()

    async def drain(self, seconds: float) -> None:
        """Wait at most this long for the ends of other processes' answers that are watched here."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if not self._mirrors.waited_for:
                return
            await asyncio.sleep(0.05)

    async def flush(self, seconds: float) -> None:
        """Write everything to the store, as far as that is possible in this time."""
        await self._writer.flush(seconds)

    async def stop(self) -> None:
        """Leave the other processes."""
        await self.topics.stop()
        await self._health.stop()
        with contextlib.suppress(StoreError):
            await self.store.run(self._presence.gone())
        await self.store.close()
