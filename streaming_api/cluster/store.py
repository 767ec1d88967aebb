"""The store: Redis or Valkey, and the names of keys in it. The only module that knows redis.

Its time-outs are short and it retries nothing: the caller knows what may be repeated. No request
handler may await it directly: a command that is cancelled while its reply is on the way costs a
connection, and handlers are cancelled with their clients.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

from streaming_api.cluster.entries import SEAL_ID, Entry, Fields, Unreadable, decode
from streaming_api.cluster.recorder import Append, Ask, Rewrite, Step

REPLY_SECONDS: Final = 0.5
BLOCK_SECONDS: Final = 1.0
RUNNING_SECONDS: Final = 3600
"""How long the store keeps an answer whose owner has fallen silent."""
FORGET_SECONDS: Final = 10
"""How long a deleted answer stays for those who watch it elsewhere, who see its end."""
GONE_SECONDS: Final = 3600
"""How long it is remembered that an answer is no longer kept: 410 and not 404."""
WEBHOOKS: Final = 1_000
"""Number of webhook calls that are kept until the topics take them into account."""
WEBHOOK_SECONDS: Final = 26 * 3600
INBOX_SECONDS: Final = 60
INBOX_LENGTH: Final = 10_000
READ_ENTRIES: Final = 200
SEALED_MARK: Final = "sealed"
"""What a `g` key says of an answer that others have ended: it outlives the seal in the stream."""

Command = tuple[Any, ...]
_FAULTS: Final = (RedisError, OSError, TimeoutError, RuntimeError)
"""How the client fails; uvloop raises RuntimeError where a connection has just been closed."""
Message = dict[bytes, bytes]


class StoreError(Exception):
    """The store did not do what it was asked, or did not confirm it; a sentence says why."""


class Refused(StoreError):
    """The store has answered and refuses: it is full, or this user lacks permission."""


def is_old(error: object) -> bool:
    """Return whether an append was refused because the stream has its number, or a higher one."""
    return isinstance(error, ResponseError) and "equal or smaller" in str(error)


def connect(url: str, *, seconds: float = REPLY_SECONDS) -> Redis:
    """Return a client, which connects on first use."""
    client: Redis = Redis.from_url(
        url,
        socket_timeout=seconds,
        socket_connect_timeout=REPLY_SECONDS,
        retry=Retry(NoBackoff(), 0),
        health_check_interval=0,
    )
    return client


class Store:
    """The questions that the cluster asks the store.

    Args:
        url: the store's address; may hold a password, so it is in no message.
        prefix: the prefix of all key names.
    """

    def __init__(self, url: str, prefix: str) -> None:
        self.url = url
        self._prefix = prefix
        self._client = connect(url)
        self._reader = connect(url)
        self._exchanger = connect(url)
        self._questions: list[tuple[Sequence[Command], asyncio.Future[list[Any]]]] = []
        self._asking: asyncio.Task[None] | None = None
        self._inbox = connect(url, seconds=BLOCK_SECONDS + 2 * REPLY_SECONDS)

    def key(self, kind: str, name: str = "") -> str:
        """Return the name of a key; one hash tag per answer, so that any sharding by key works."""
        tagged = f"{{{name}}}" if kind in {"a", "m", "g"} else name
        return f"{self._prefix}:{kind}:{tagged}" if name else f"{self._prefix}:{kind}"

    async def close(self) -> None:
        """Close the connections."""
        for client in (self._client, self._reader, self._exchanger, self._inbox):
            await client.aclose()

    async def run(self, *commands: Command, reader: bool = False) -> list[Any]:
        """Run commands in one round trip; return replies, and errors of single commands among them.

        Raises:
            StoreError: it is unknown what came of them.
        """
        return await run_on(self._reader if reader else self._client, commands)

    async def exchange(self, *commands: Command) -> list[Any]:
        """Run commands like `run`, on a connection that nothing else keeps busy.

        Raises:
            StoreError: as in `run`.
        """
        return await run_on(self._exchanger, commands)

    async def ask(self, *commands: Command) -> list[Any]:
        """Run commands like `run`, where an error of one command is an error of all.

        Concurrent calls share one round trip, on one connection; one is under way at a time.

        Raises:
            StoreError: as in `run`.
            Refused: the store refuses.
        """
        future: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        self._questions.append((commands, future))
        if self._asking is None:
            self._asking = asyncio.create_task(self._ask_on(), name="cluster questions")
        replies = await future
        for reply in replies:
            if isinstance(reply, Exception):
                raise Refused(reason_of(reply))
        return replies

    async def _ask_on(self) -> None:
        while self._questions:
            taken, self._questions = self._questions, []
            try:
                replies = await self.run(*(c for commands, _ in taken for c in commands))
            except StoreError as error:
                for _, future in taken:
                    if not future.done():
                        future.set_exception(StoreError(str(error)))
                continue
            at = 0
            for commands, future in taken:
                if not future.done():
                    future.set_result(replies[at : at + len(commands)])
                at += len(commands)
        self._asking = None

    # Answers

    def step(self, ref: str, step: Step) -> Command:
        """Return the command of a step that needs only one."""
        key = self.key("a", ref)
        if isinstance(step, Ask):
            return ("XREVRANGE", key, "+", "-", "COUNT", 1)
        assert isinstance(step, Append)
        flags: list[object] = [] if step.create else ["NOMKSTREAM"]
        if step.keep_from > 1:
            flags += ["MINID", "~", f"{step.keep_from}-0"]
        return ("XADD", key, *flags, f"{step.entry.last}-0", *_flat(step.entry.encode()))

    async def rewrite(self, ref: str, step: Rewrite) -> bool:
        """Replace an answer's stream; return False if it has been sealed.

        Raises:
            StoreError: it is unknown what came of it.
        """
        key = self.key("a", ref)
        try:
            async with self._client.pipeline(transaction=True) as pipeline:
                await pipeline.watch(key)
                top = await pipeline.xrevrange(key, count=1)
                if top and top[0][0] == SEAL_ID:
                    return False
                if await pipeline.get(self.key("g", ref)) == SEALED_MARK.encode():
                    return False
                pipeline.multi()  # type: ignore[no-untyped-call]
                pipeline.delete(key)
                for entry in step.entries:
                    fields = _flat(entry.encode())
                    pipeline.execute_command("XADD", key, f"{entry.last}-0", *fields)
                await pipeline.execute()
        except _FAULTS as error:
            raise StoreError(reason_of(error)) from None
        return True

    async def read(self, cursors: Mapping[str, int]) -> dict[str, list[Entry | None]]:
        """Return what follows a number, for several answers; None for what cannot be read.

        Raises:
            StoreError: the store cannot be asked, or gives no answer.
        """
        if not cursors:
            return {}
        keys = [self.key("a", ref) for ref in cursors]
        ids = [f"{number}-0" for number in cursors.values()]
        command = ("XREAD", "COUNT", READ_ENTRIES, "STREAMS", *keys, *ids)
        (reply,) = await self.run(command, reader=True)
        if isinstance(reply, Exception):
            raise Refused(reason_of(reply))
        refs = {key.encode(): ref for key, ref in zip(keys, cursors, strict=True)}
        return {
            refs[key]: [_entry(fields) for _, fields in entries] for key, entries in _streams(reply)
        }

    async def inbox_end(self, instance: str) -> str:
        """Return the id of the newest message to a process.

        Raises:
            StoreError: the store cannot be asked, or gives no answer.
        """
        (newest,) = await self.run(("XREVRANGE", self.key("x", instance), "+", "-", "COUNT", 1))
        return newest[0][0].decode() if isinstance(newest, list) and newest else "0-0"

    def webhook(self, body: bytes) -> list[Command]:
        """Return the commands that keep what Alertmanager said for who makes the topics."""
        key = self.key("webhooks")
        return [
            ("XADD", key, "MAXLEN", "~", WEBHOOKS, "*", "b", zlib.compress(body, 1)),
            ("EXPIRE", key, WEBHOOK_SECONDS),
        ]

    # The inbox

    def message(self, instance: str, kind: str, **fields: str | bytes) -> Command:
        """Return the command that sends a message to another process."""
        parts = [part for pair in fields.items() for part in pair]
        key = self.key("x", instance)
        return ("XADD", key, "MAXLEN", "~", INBOX_LENGTH, "*", "t", kind, *parts)

    async def inbox(self, after: Mapping[str, str]) -> list[tuple[str, str, Message]]:
        """Wait a second for messages after the ids of some streams; return key, id and message.

        Raises:
            StoreError: the store cannot be asked, or gives no answer.
        """
        return await wait_on(self._inbox, after)


async def wait_on(client: Redis, after: Mapping[str, str]) -> list[tuple[str, str, Message]]:
    """See `Store.inbox`."""
    try:
        command = client.execute_command(  # type: ignore[no-untyped-call]
            "XREAD", "COUNT", READ_ENTRIES, "BLOCK", round(BLOCK_SECONDS * 1000),
            "STREAMS", *after, *after.values(),
        )  # fmt: skip
        reply = await command
    except _FAULTS as error:
        await client.connection_pool.disconnect()
        raise StoreError(reason_of(error)) from None
    return messages_of(reply)


def messages_of(reply: object) -> list[tuple[str, str, Message]]:
    """Return XREAD's reply as key, id and message."""
    return [
        (key.decode(), number.decode(), fields)
        for key, entries in _streams(reply)
        for number, fields in entries
    ]


async def run_on(client: Redis, commands: Sequence[Command]) -> list[Any]:
    """See `Store.run`."""
    pipeline = client.pipeline(transaction=False)
    for command in commands:
        pipeline.execute_command(*command)
    try:
        replies: list[Any] = await pipeline.execute(raise_on_error=False)
    except _FAULTS as error:
        raise StoreError(reason_of(error)) from None
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError  # which `wait_for` in redis loses if a reply comes just then
    return replies


def _entry(fields: Fields) -> Entry | None:
    try:
        return decode(fields)
    except Unreadable:
        return None


def _flat(fields: Mapping[bytes, bytes]) -> list[bytes]:
    return [part for pair in fields.items() for part in pair]


def _streams(reply: object) -> Sequence[tuple[bytes, Sequence[tuple[bytes, Message]]]]:
    """Return XREAD's reply in one form, whatever protocol and parser gave it."""
    if not reply:
        return []
    rows = reply.items() if isinstance(reply, dict) else cast("Sequence[Any]", reply)
    found = []
    for key, entries in rows:
        if (
            entries
            and isinstance(entries[0], list)
            and entries[0]
            and isinstance(entries[0][0], list | tuple)
        ):
            entries = entries[0]  # noqa: PLW2901 (RESP3 wraps them once more)
        found.append((key, [(number, _mapping(fields)) for number, fields in entries]))
    return found


def _mapping(fields: Any) -> Message:  # noqa: ANN401 (redis-py says no more)
    if isinstance(fields, dict):
        return fields
    return dict(zip(fields[::2], fields[1::2], strict=True))


def reason_of(error: BaseException) -> str:
    """Return a sentence that shows no address and no password."""
    if isinstance(error, TimeoutError) or "Timeout" in type(error).__name__:
        return "The store does not answer in time."
    if isinstance(error, ResponseError):
        return f"The store refuses: {str(error)[:100]}."
    return f"The store cannot be reached ({type(error).__name__})."
