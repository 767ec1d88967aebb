"""Cluster: this process as one of several. Knows the answers; only ``app`` knows it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
import zlib
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final

from streaming_api.answers.answers import Answers, Key, gone, not_found
from streaming_api.answers.watched_answer import AnswerOutcome, WatchedAnswer
from streaming_api.cluster import meta as metas
from streaming_api.cluster.entries import SEAL_ID, Entry
from streaming_api.cluster.figures import Figures
from streaming_api.cluster.membership import Membership, Missing
from streaming_api.cluster.meta import Meta, key_of, ref_of
from streaming_api.cluster.mirror import SERVER_LOST, Mirror
from streaming_api.cluster.reader import Reader
from streaming_api.cluster.remote_viewer import SILENCE_SECONDS, RemoteViewer
from streaming_api.cluster.shared import SharedBindings, Tickets, unavailable
from streaming_api.cluster.store import (
    GONE_SECONDS,
    RUNNING_SECONDS,
    Command,
    Message,
    Store,
    StoreError,
)
from streaming_api.cluster.writer import Recording, Writer
from streaming_api.errors import ApiError, Gone, NotFound, TooMany
from streaming_api.wire.messages import CHAT

if TYPE_CHECKING:
    from streaming_api.access.client import Client
    from streaming_api.answers.answer import Answer
    from streaming_api.background import Background
    from streaming_api.config import StreamingConfig
    from streaming_api.engine.channel import Channel
    from streaming_api.wire.commands import ChatRequest

logger = logging.getLogger(__name__)

IDLE_SECONDS: Final = 10.0
"""How long a mirror that nobody watches is kept."""
CLAIM_SECONDS: Final = 5.0
"""How long a claim is held for a start that does not come."""
ABSENT_SECONDS: Final = 0.5
"""How long it is remembered that there is no such answer: for the call that asked."""
LOAD_SECONDS: Final = 2.0
CANCEL_SECONDS: Final = 2.0
MARK_SECONDS: Final = 3.0
RENEW_TICKS: Final = 60


class Cluster:
    """The answers of other processes here, and ours there.

    Args:
        config: with ``cluster_url``.
        answers: of this process.
        new_channel: makes the channel of a mirror.
        on_state: told ``up`` or ``down`` and why.
    """

    def __init__(
        self,
        config: StreamingConfig,
        answers: Answers,
        new_channel: Callable[[str], Channel],
        on_state: Callable[[str, str | None], None],
    ) -> None:
        assert config.cluster_url is not None
        self.instance = f"{config.cluster_name or 'streaming-api'}-{secrets.token_hex(6)}"
        self.figures = Figures()
        self.mirrors: dict[Key, Mirror] = {}
        self.on_webhook: Callable[[bytes], None] = lambda _: None
        self.store = Store(config.cluster_url, config.cluster_prefix)
        self._answers = answers
        self._new_channel = new_channel
        self._on_state = on_state
        self._per_key = config.answers_per_key
        self._lease = config.cluster_lease
        self._kept = max(1, round(config.chat_retention_seconds))
        self._writer = Writer(
            self.store,
            self.figures,
            config.cluster_flush_interval / 1000,
            config.chat_retention_seconds,
            self._sealed,
        )
        self._reader = Reader(
            self.store, self.instance, self.figures, self._receive, self._ask_rewrite
        )
        self._missing = Missing(self.figures, config.cluster_lease)
        self._membership: Membership | None = None
        self._claimed: dict[Key, asyncio.TimerHandle] = {}
        self._asking: dict[tuple[str, Key], asyncio.Task[None]] = {}
        self._absent: dict[Key, ApiError] = {}
        self.tickets = Tickets(self.store, self._ask)
        self.bindings = SharedBindings(self.store, self.instance, self._ask, self._send)
        self._outbox: asyncio.Queue[Command] = asyncio.Queue(10_000)
        answers.remote = self

    def __repr__(self) -> str:
        recordings = len(self._writer.recordings)
        return f"<Cluster {self.instance}, {recordings} recorded, {len(self.mirrors)} mirrored>"

    @property
    def lag(self) -> int:
        """Messages shown here and not yet in the store."""
        return self._writer.lag

    # For Answers

    def get(self, key: Key) -> WatchedAnswer | None:
        """See `Remote`."""
        return self.mirrors.get(key)

    def absent(self, key: Key) -> ApiError | None:
        """See `Remote`."""
        return self._absent.get(key)

    async def fetch(self, key: Key) -> None:
        """See `Remote`."""
        try:
            await self._once("fetch", key, lambda: self._fetch(key))
        except (NotFound, Gone) as error:
            self._miss(key, error)

    async def _ask(self, *commands: Command) -> list[Any]:
        """Ask the store in a task of our own: a client that leaves cancels only its waiting."""
        task = asyncio.create_task(self.store.ask(*commands), name="cluster question")
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        try:
            return await asyncio.shield(task)
        except StoreError as error:
            self.figures.failed(str(error))
            raise

    def may_start(self, request: ChatRequest, client: Client) -> bool:
        """See `Remote`."""
        claim = self._claimed.pop((client.owner, request.request_id), None)
        if claim is not None:
            claim.cancel()
            return True
        return not request.chosen and not self._per_key

    async def claim(self, request: ChatRequest, client: Client) -> None:
        """See `Remote`."""
        key = (client.owner, request.request_id)
        await self._once("claim", key, lambda: self._claim(key, request, client))

    def started(self, answer: Answer) -> None:
        """See `Remote`."""
        key = (answer.owner, answer.request_id)
        about = Meta(self.instance, answer.asked_by, answer.request, answer.notes)
        self._writer.add(key, answer, about)

    def ended(self, answer: Answer) -> None:
        """See `Remote`."""
        if self._per_key:
            name = answer.asked_by
            self._send(("ZREM", self.store.key("q", name), answer.request_id))

    def forget(self, answer: WatchedAnswer) -> None:
        """See `Remote`."""
        key = (answer.owner, answer.request_id)
        ref = ref_of(key)
        self._writer.recordings.pop(key, None)
        self.mirrors.pop(key, None)
        self._send(("DEL", self.store.key("a", ref), self.store.key("m", ref)))
        if isinstance(answer, Mirror):
            self._tell(answer.instance, "forget", k=ref)
        self._miss(key, not_found(key[1]))

    def _miss(self, key: Key, error: ApiError) -> None:
        self._absent[key] = error
        asyncio.get_running_loop().call_later(ABSENT_SECONDS, self._absent.pop, key, None)

    async def _once(
        self, what: str, key: Key, ask: Callable[[], Coroutine[None, None, None]]
    ) -> None:
        """Ask the store in a task of our own: a client that leaves cancels only its waiting."""
        task = self._asking.get((what, key))
        if task is None:
            task = self._asking[what, key] = asyncio.create_task(ask(), name=f"cluster {what}")
            task.add_done_callback(lambda done: self._asked(what, key, done))
        await asyncio.shield(task)

    def _asked(self, what: str, key: Key, done: asyncio.Task[None]) -> None:
        del self._asking[what, key]
        if not done.cancelled():
            done.exception()  # whoever waits is told; if nobody does, nobody need be

    async def _fetch(self, key: Key) -> None:
        ref = ref_of(key)
        until = time.monotonic() + LOAD_SECONDS
        while True:
            try:
                found, was = await self.store.ask(
                    ("HGETALL", self.store.key("m", ref)), ("EXISTS", self.store.key("g", ref))
                )
            except StoreError as error:
                self.figures.failed(str(error))
                raise unavailable() from None
            if not found:
                raise gone(key[1]) if was else not_found(key[1])
            fields = _mapping(found)
            if b"v" in fields:
                await self._mirror(key, metas.decode(key[1], fields))
                return
            if time.monotonic() > until:
                raise unavailable()
            await asyncio.sleep(LOAD_SECONDS / 100)  # somebody has claimed it just now

    async def _mirror(self, key: Key, about: Meta) -> None:
        mirror = self.mirrors.get(key)
        if mirror is None:
            mirror = Mirror(
                about.request,
                key[0],
                about.asked_by,
                self._new_channel(key[1]),
                self._answers.retention,
                about.instance,
                self._answers.budget.share(about.asked_by),
            )
            mirror.notes.update(about.notes)
            mirror.on_watched = self._watched
            mirror.on_cancel = self._cancel
            mirror.confirm = self._confirm
            mirror.channel.on_room = lambda: self._reader.soil(ref_of(key), mirror)
            self.mirrors[key] = mirror
        self._reader.soil(ref_of(key), mirror)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LOAD_SECONDS):
                await mirror.loaded.wait()
                return
        if not mirror.channel.number:
            self.mirrors.pop(key, None)
            raise unavailable()

    async def _claim(self, key: Key, request: ChatRequest, client: Client) -> None:
        ref = ref_of(key)
        about = Meta(self.instance, client.name, request)
        if self._per_key:
            await self._take_quota(client.name, key[1])
        try:
            taken, (holder, described) = await self.store.ask(
                ("HSETNX", self.store.key("m", ref), "instance", self.instance),
                ("HMGET", self.store.key("m", ref), "instance", "v"),
            )
            reserved = holder == self.instance.encode() and described is None
            if mine := bool(taken) or reserved:
                fields = [part for pair in about.encode().items() for part in pair]
                await self.store.ask(
                    ("HSET", self.store.key("m", ref), *fields),
                    ("EXPIRE", self.store.key("m", ref), RUNNING_SECONDS),
                    ("DEL", self.store.key("g", ref)),
                )
        except StoreError as error:
            self.figures.failed(str(error))
            raise unavailable() from None
        if not mine:
            if self._per_key:
                self._send(("ZREM", self.store.key("q", client.name), key[1]))
            await self._fetch(key)
            return
        loop = asyncio.get_running_loop()
        self._claimed[key] = loop.call_later(CLAIM_SECONDS, self._release, key)

    def _release(self, key: Key) -> None:
        """Nobody has used the claim: whoever asked for it has left."""
        self._claimed.pop(key, None)
        self._send(("DEL", self.store.key("m", ref_of(key))))

    async def _take_quota(self, name: str, request_id: str) -> None:
        try:
            (taken,) = await self.store.ask(
                ("EVAL", _TAKE, 1, self.store.key("q", name), self._per_key, request_id,
                 round(self._lease))
            )  # fmt: skip
        except StoreError as error:
            self.figures.failed(str(error))
            raise unavailable() from None
        if not taken:
            message = f"{self._per_key} answers are running for this key; wait for one to end."
            raise TooMany(message, "too_many_answers", retry_after=1)

    # Chats of the AI SDK

    def note_chat(self, key: Key, chat_id: str) -> None:
        """Let every process know the newest answer of a chat."""
        name = self.store.key("c", f"{key[0]}/{chat_id}")
        self._send(("SET", name, key[1], "EX", RUNNING_SECONDS))

    async def chat_answer(self, owner: str, chat_id: str) -> str | None:
        """The newest answer of a chat, as far as the store knows."""
        with contextlib.suppress(StoreError):
            (found,) = await self._ask(("GET", self.store.key("c", f"{owner}/{chat_id}")))
            return None if found is None else str(found.decode())
        return None

    # Tickets

    async def share_ticket(self, ticket: str, owner: str) -> bool:
        """Make a ticket good everywhere; whether that could be done."""
        return await self.tickets.share(ticket, owner)

    async def redeem_ticket(self, ticket: str) -> str | None:
        """Whose a ticket is; None if the store does not know it, or cannot say."""
        with contextlib.suppress(StoreError):
            return await self.tickets.redeem(ticket)
        return None

    async def share_webhook(self, body: bytes) -> None:
        """Tell every process, this one among them, what Alertmanager said.

        Raises:
            Unavailable: it cannot be told now; Alertmanager says it again.
        """
        try:
            await self._ask(*self.store.webhook(body))
        except StoreError:
            raise unavailable() from None

    # Mirrors

    def _watched(self, mirror: Mirror) -> None:
        """The first viewer of a mirror has come, or its last one has left: its owner is told."""
        if mirror.channel.ended:
            return
        ref = ref_of((mirror.owner, mirror.request_id))
        if mirror.channel.watched:
            self._tell(mirror.instance, "watch", k=f"{ref} {mirror.channel.fastest()}")
        else:
            self._tell(mirror.instance, "unwatch", k=ref)

    def _cancel(self, mirror: Mirror) -> None:
        self._tell(mirror.instance, "cancel", k=ref_of((mirror.owner, mirror.request_id)))

    async def _confirm(self, mirror: Mirror) -> None:
        """Wait for the end of a cancelled answer: it is in the store, so everybody sees it."""
        ended = asyncio.Event()
        mirror.on_ended.append(ended.set)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CANCEL_SECONDS):
                while mirror.outcome is None:
                    ref = ref_of((mirror.owner, mirror.request_id))
                    self._reader.soil(ref, mirror)
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(CANCEL_SECONDS / 10):
                            await ended.wait()
                return
        if mirror.outcome is None:
            raise unavailable()

    def _ask_rewrite(self, mirror: Mirror) -> None:
        if not mirror.owner_lost:
            self._tell(mirror.instance, "rewrite", k=ref_of((mirror.owner, mirror.request_id)))

    # The inbox

    def _receive(self, message: Message) -> None:
        """Do what another process asks for; hints, so what is wrong with one is passed over."""
        if (body := message.get(b"b")) is not None:
            self.on_webhook(zlib.decompress(body))
            return
        kind = message.get(b"t", b"").decode()
        by = message.get(b"by", b"").decode()
        for line in message.get(b"k", b"").decode().split("\n"):
            ref, _, cursor = line.partition(" ")
            key = key_of(ref)
            if kind == "news" and (mirror := self.mirrors.get(key)) is not None:
                self._reader.soil(ref, mirror)
            elif kind == "notice" and (mirror := self.mirrors.get(key)) is not None:
                for viewer in mirror.channel.viewers():
                    viewer.connection.send(message.get(b"p", b"{}"), CHAT)
            elif (recording := self._writer.recordings.get(key)) is not None:
                self._asked_for(recording, kind, by, cursor)

    def _asked_for(self, recording: Recording, kind: str, by: str, cursor: str) -> None:
        """Another process asks for something about an answer of ours."""
        answer = recording.answer
        if kind == "watch" and cursor.isascii() and cursor.isdigit():
            if answer.outcome is None:
                self._watch(recording, by, int(cursor))
            else:
                self._tell(by, "news", k=recording.ref)
        elif kind == "unwatch" and (viewer := recording.watchers.pop(by, None)) is not None:
            viewer.leave()
        elif kind == "cancel":
            answer.cancel()
        elif kind == "forget":
            self._answers.delete(answer)
        elif kind == "rewrite":
            recording.recorder.missing()
            self._writer.hurry(recording)

    def _watch(self, recording: Recording, by: str, cursor: int) -> None:
        viewer = recording.watchers.get(by)
        if viewer is None:
            ref = recording.ref

            def send(payload: bytes) -> None:
                self._tell(by, "notice", k=ref, p=payload)

            viewer = recording.watchers[by] = RemoteViewer(recording.answer.channel, send)
            recording.answer.returned()
            if not recording.recorder.done:
                self._writer.hurry(recording)
            else:
                self._tell(by, "news", k=ref)
        viewer.report(cursor)

    def _sealed(self, recording: Recording) -> None:
        """Others hold this process for dead: what it says now is its own."""
        logger.warning("an answer was ended by others, who held this process for dead")
        recording.answer.cancel(AnswerOutcome("incomplete", SERVER_LOST))
        for viewer in recording.watchers.values():
            viewer.leave()
        recording.watchers.clear()

    # Telling

    def _tell(self, instance: str, kind: str, **fields: str | bytes) -> None:
        self._send(self.store.message(instance, kind, by=self.instance, **fields))

    def _send(self, command: Command) -> None:
        """Run a command soon; a hint that finds no room is lost, which costs time."""
        with contextlib.suppress(asyncio.QueueFull):
            self._outbox.put_nowait(command)

    async def _keep_sending(self) -> None:
        while True:
            commands = [await self._outbox.get()]
            while not self._outbox.empty() and len(commands) < 500:
                commands.append(self._outbox.get_nowait())
            try:
                await self.store.run(*commands)
            except StoreError as error:
                self.figures.failed(str(error))
                await asyncio.sleep(0.1)

    # Once a second

    async def _keep_looking(self) -> None:
        ticks = 0
        while True:
            await asyncio.sleep(1)
            ticks += 1
            self._look()
            try:
                await self._ask_who_lives(renew=ticks % RENEW_TICKS == 0)
            except StoreError as error:
                self.figures.failed(str(error))
            else:
                self._settle()
            self._on_state("up" if self.figures.up else "down", self.figures.reason)

    def _look(self) -> None:
        now = time.monotonic()
        for key, mirror in tuple(self.mirrors.items()):
            if mirror.channel.watched:
                self._reader.soil(ref_of(key), mirror)
                self._watched(mirror)
            elif now - mirror.idle_since > IDLE_SECONDS:
                del self.mirrors[key]
        for key, recording in tuple(self._writer.recordings.items()):
            if self._answers.local(key) is not recording.answer:
                del self._writer.recordings[key]
            for by, viewer in tuple(recording.watchers.items()):
                if now - viewer.heard > SILENCE_SECONDS or recording.answer.outcome is not None:
                    del recording.watchers[by]
                    viewer.leave()
        self._tell(self.instance, "mark")

    async def _ask_who_lives(self, *, renew: bool) -> None:
        """See who lives, and end the answers of who does not."""
        owners = sorted({m.instance for m in self.mirrors.values() if m.outcome is None})
        commands: list[Command] = [("EXISTS", self.store.key("i", owner)) for owner in owners]
        commands += self._quotas()
        if renew:
            commands += self._writer.renew()
        replies = await self.store.run(*commands, ("TIME",))
        alive = {owner: bool(reply) for owner, reply in zip(owners, replies, strict=False)}
        dead = self._missing.saw(alive)
        for key, mirror in tuple(self.mirrors.items()):
            if mirror.instance in dead and mirror.outcome is None:
                await self._seal(key, mirror)

    def _quotas(self) -> list[Command]:
        if not self._per_key:
            return []
        lease = round(self._lease)
        return [
            ("EVAL", _RENEW, 1, self.store.key("q", answer.asked_by), answer.request_id, lease)
            for answer in self._answers.running
        ]

    async def _seal(self, key: Key, mirror: Mirror) -> None:
        """End an answer whose owner is dead; the store refuses whatever it may still say."""
        ref = ref_of(key)
        entry = Entry(mirror.channel.number + 1, seal=True)
        fields = [part for pair in entry.encode().items() for part in pair]
        replies = await self.store.run(
            ("XADD", self.store.key("a", ref), SEAL_ID, *fields),
            ("EXPIRE", self.store.key("a", ref), self._kept),
            ("EXPIRE", self.store.key("m", ref), self._kept),
            ("SET", self.store.key("g", ref), 1, "EX", self._kept + GONE_SECONDS),
        )
        if not isinstance(replies[0], Exception):
            self.figures.seals += 1
        mirror.owner_lost = True
        self._reader.soil(ref, mirror)

    def _settle(self) -> None:
        membership = self._membership
        assert membership is not None
        membership.turned()
        hung = time.monotonic() - self._reader.marked > MARK_SECONDS
        if hung:
            self.figures.failed("What this process tells itself through the store does not come.")
        elif membership.failed is not None:
            self.figures.failed(membership.failed)
        elif not self.figures.up and not self._writer.lag:
            self._writer.recovered()

    # Life

    def start(self, background: Background) -> None:
        """Join the others."""
        loop = asyncio.get_running_loop()

        def changed() -> None:
            loop.call_soon_threadsafe(self._other_store)

        self._membership = Membership(self.store, self.instance, self._lease, changed)
        self._membership.start()
        background.start("cluster writer", self._writer.run)
        background.start("cluster inbox", self._reader.keep_listening)
        background.start("cluster reader", self._reader.keep_reading)
        background.start("cluster hints", self._keep_sending)
        background.start("cluster look", self._keep_looking)
        background.start("cluster turns", self._keep_turning)

    async def _keep_turning(self) -> None:
        while True:
            if self._membership is not None:
                self._membership.turned()
            await asyncio.sleep(0.5)

    def _other_store(self) -> None:
        """The store has restarted, or is another one: everything is asked, nothing assumed."""
        logger.warning("the store is another one than before; what it has is verified")
        self.figures.stable_since = time.monotonic()
        self._reader.restart()
        self._writer.verify()

    async def drain(self, seconds: float) -> None:
        """Wait for the ends of the answers of others that are watched here, but no longer."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if not any(m.outcome is None and m.channel.watched for m in self.mirrors.values()):
                return
            await asyncio.sleep(0.05)

    async def flush(self, seconds: float) -> None:
        """Have everything in the store, as far as that is possible in this time."""
        await self._writer.flush(seconds)

    async def stop(self) -> None:
        """Leave the others."""
        if self._membership is not None:
            await asyncio.to_thread(self._membership.stop)
        await self.store.close()


_TAKE: Final = """
local now = tonumber(redis.call('TIME')[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - 1)
if redis.call('ZSCORE', KEYS[1], ARGV[2]) == false
   and redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[1]) then return 0 end
redis.call('ZADD', KEYS[1], now + tonumber(ARGV[3]), ARGV[2])
redis.call('EXPIRE', KEYS[1], 3600)
return 1
"""
_RENEW: Final = """
local now = tonumber(redis.call('TIME')[1])
return redis.call('ZADD', KEYS[1], 'XX', now + tonumber(ARGV[2]), ARGV[1])
"""


def _mapping(fields: object) -> dict[bytes, bytes]:
    if isinstance(fields, dict):
        return fields
    assert isinstance(fields, list)
    return dict(zip(fields[::2], fields[1::2], strict=True))
