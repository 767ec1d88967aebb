"""The store: the names of its keys, the questions that the cluster asks it, and who asks together.

A round trip costs more than what it carries, so what can wait for a moment goes along with others.
"""

from __future__ import annotations

import asyncio
import time
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

from streaming_api.cluster.connection import (
    READ_ENTRIES,
    REPLY_SECONDS,
    Command,
    Connection,
    Message,
    Replies,
    StoreError,
    mapping,
    messages_of,
    reading,
    rows_of,
    unrefused,
)
from streaming_api.cluster.entries import SEAL_ID, Entry, Fields, Unreadable, decode
from streaming_api.cluster.recorder import Append, Ask, Rewrite, Step

TOGETHER_SECONDS: Final = 0.075
"""How long what can wait waits for a trip of others. Who makes answers writes them more often."""
LIVELY_SECONDS: Final = 0.05
"""How long after a trip, for whatever reason, another one is likely."""
LISTEN_SECONDS: Final = 1.0
"""How long the store waits for messages to a process."""
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
LISTEN_ENTRIES: Final = 20
"""Number of entries of an answer that are read together with a wait for messages."""
SEALED_MARK: Final = "sealed"
"""What a `g` key says of an answer that others have ended: it outlives the seal in the stream."""

_GROUP: Final = 25
"""Number of answers in one command: while they are shown, the store reads the next ones."""

Found = dict[str, list[Entry | None]]
"""Entries by answer, of each one that was read; None for what cannot be read."""
Take = Callable[[Found], Awaitable[None]]


class _Question:
    """Commands that share a round trip, and who waits for the replies."""

    __slots__ = ("commands", "replies")

    def __init__(self, commands: Sequence[Command]) -> None:
        self.commands = commands
        self.replies: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()


def _settle(questions: Sequence[_Question], outcome: list[Any] | StoreError) -> None:
    """Give each question its replies, or the error of all."""
    at = 0
    for question in questions:
        end = at + len(question.commands)
        if question.replies.done():  # nobody waits any more
            pass
        elif isinstance(outcome, StoreError):
            question.replies.set_exception(StoreError(str(outcome)))
        else:
            question.replies.set_result(outcome[at:end])
        at = end


class Store:
    """The questions that the cluster asks the store.

    Args:
        url: the store's address; may hold a password, so it is in no message.
        prefix: the prefix of all key names.
    """

    def __init__(self, url: str, prefix: str) -> None:
        self.url = url
        self._prefix = prefix
        self._connections: list[Connection] = []
        self._main = self.connection()
        self._inbox = self.connection(LISTEN_SECONDS + 2 * REPLY_SECONDS)
        self._questions: list[_Question] = []
        self._passengers: list[_Question] = []
        self._departed = self._sent = 0.0
        self._asking: asyncio.Task[None] | None = None

    def connection(self, seconds: float = REPLY_SECONDS) -> Connection:
        """Return a connection of its own, which is closed with the others."""
        connection = Connection(self.url, seconds=seconds)
        self._connections.append(connection)
        return connection

    @property
    def trips(self) -> int:
        """How many round trips there were."""
        return sum(connection.trips for connection in self._connections)

    def key(self, kind: str, name: str = "") -> str:
        """Return the name of a key; one hash tag per answer, so that any sharding by key works."""
        tagged = f"{{{name}}}" if kind in {"a", "m", "g"} else name
        return f"{self._prefix}:{kind}:{tagged}" if name else f"{self._prefix}:{kind}"

    async def close(self) -> None:
        """Close the connections."""
        for connection in self._connections:
            await connection.close()

    # Who goes together

    async def run(self, *commands: Command) -> list[Any]:
        """Run commands in one round trip; return replies, and errors of single commands among them.

        Raises:
            StoreError: it is unknown what came of them.
        """
        self._departed = time.monotonic()
        return await self._run(commands)

    async def _run(self, commands: Sequence[Command]) -> list[Any]:
        async with self._sending(self._main, commands) as replies:
            return await replies(len(commands), REPLY_SECONDS)

    @property
    def busy(self) -> bool:
        """Whether there is a trip soon that others can go along with."""
        return time.monotonic() - self._departed < TOGETHER_SECONDS

    @asynccontextmanager
    async def _sending(
        self, connection: Connection, commands: Sequence[Command]
    ) -> AsyncIterator[Replies]:
        """Send commands, after those of whoever waits for a trip."""
        self._sent = time.monotonic()
        passengers, self._passengers = self._passengers, []
        first = [command for question in passengers for command in question.commands]
        try:
            async with connection.sending([*first, *commands]) as replies:
                if passengers:
                    _settle(passengers, await replies(len(first), REPLY_SECONDS))
                yield replies
        except BaseException as error:
            _settle(passengers, StoreError(str(error) or "The store was not asked."))
            raise

    async def along(self, *commands: Command) -> list[Any]:
        """Run commands like `run`, together with others if there are any soon.

        Raises:
            StoreError: as in `run`.
        """
        return await self._board(commands, TOGETHER_SECONDS)

    def soon(self, *commands: Command) -> asyncio.Future[list[Any]]:
        """Run commands like `along`: with the next trip, at once unless one is likely soon."""
        is_lively = time.monotonic() - self._sent < LIVELY_SECONDS
        return self._board(commands, LIVELY_SECONDS if is_lively else 0.0)

    def _board(self, commands: Sequence[Command], within: float) -> asyncio.Future[list[Any]]:
        question = _Question(commands)
        self._passengers.append(question)
        waiting = asyncio.get_running_loop().call_later(within, self.depart)
        question.replies.add_done_callback(lambda _: waiting.cancel())
        return question.replies

    def depart(self) -> None:
        """Let what waits for others wait no longer."""
        if self._asking is None:
            self._asking = asyncio.create_task(self._keep_asking(), name="cluster questions")

    async def ask(self, *commands: Command) -> list[Any]:
        """Run commands like `run`, where an error of one command is an error of all.

        Concurrent calls share one round trip; one is under way at a time.

        Raises:
            StoreError: as in `run`.
            Refused: the store refuses.
        """
        question = _Question(commands)
        self._questions.append(question)
        self.depart()
        return unrefused(await question.replies)

    async def _keep_asking(self) -> None:
        while self._questions or self._passengers:
            taken, self._questions = self._questions, []
            try:
                replies = await self._run([c for question in taken for c in question.commands])
            except StoreError as error:
                _settle(taken, error)
            else:
                _settle(taken, replies)
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
        async with self._main.watching(key) as pipeline:
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
        return True

    async def read(self, cursors: Mapping[str, int]) -> Found:
        """Return what follows a number, for several answers.

        Raises:
            StoreError: the store cannot be asked, or gives no answer.
        """
        (reply,) = unrefused(await self._run([self._read(cursors, READ_ENTRIES)]))
        return self._found(cursors, reply)

    def _read(self, cursors: Mapping[str, int], most: int) -> Command:
        return reading({self.key("a", ref): f"{at}-0" for ref, at in cursors.items()}, most)

    def _found(self, cursors: Mapping[str, int], reply: object) -> Found:
        tag = slice(len(self.key("a")) + 2, -1)
        nothing: Found = {ref: [] for ref in cursors}
        return nothing | {
            key[tag].decode(): [_entry(mapping(fields)) for _, fields in entries]
            for key, entries in rows_of(reply)
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

    async def poll(self, after: Mapping[str, str]) -> list[tuple[str, str, Message]]:
        """Read messages after the ids of some streams along with others.

        Raises:
            StoreError: the store cannot be asked, or gives no answer.
        """
        poll = reading(after, READ_ENTRIES)
        (reply,) = unrefused(await self.along(poll))
        return messages_of(reply)

    async def listen(
        self, after: Mapping[str, str], inbox: str, cursors: Mapping[str, int], take: Take
    ) -> list[tuple[str, str, Message]]:
        """Read answers, and wait for messages, in one trip; return key, id and message.

        Whoever reads answers is told of the next ones soon: then the store waits only for that, and
        not for long.

        Args:
            after: ids in streams of messages.
            inbox: the one of them that says what to read.
            cursors: numbers in answers.
            take: is given what was found of the answers.

        Raises:
            StoreError: the store cannot be asked, or gives no answer.
        """
        known, seconds = list(cursors.items()), LISTEN_SECONDS
        groups = [dict(known[at : at + _GROUP]) for at in range(0, len(known), _GROUP)]
        reads = [self._read(group, LISTEN_ENTRIES) for group in groups]
        awaited, polled = dict(after), dict[str, str]()
        if reads:
            awaited, polled = {inbox: awaited.pop(inbox)}, awaited
        if polled or len(awaited) == 1:
            seconds = TOGETHER_SECONDS
        polls = [reading(polled, READ_ENTRIES)] if polled else []
        wait = reading(awaited, READ_ENTRIES, seconds)
        async with self._sending(self._inbox, [*reads, *polls, wait]) as replies:
            for group in groups:
                (reply,) = unrefused(await replies(1, REPLY_SECONDS))
                await take(self._found(group, reply))
            last = unrefused(await replies(len(polls) + 1, seconds + 2 * REPLY_SECONDS))
        return [message for reply in last for message in messages_of(reply)]


def _entry(fields: Fields) -> Entry | None:
    try:
        return decode(fields)
    except Unreadable:
        return None


def _flat(fields: Mapping[bytes, bytes]) -> list[bytes]:
    return [part for pair in fields.items() for part in pair]
