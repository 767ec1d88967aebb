"""The store: the names of its keys, the questions that the cluster asks it, and who asks together.

A round trip costs more than what it carries, so what can wait for a moment goes along with others.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

from streaming_api.cluster.connection import (
    BLOCK_SECONDS,
    READ_ENTRIES,
    REPLY_SECONDS,
    Command,
    Connection,
    Message,
    StoreError,
    messages_of,
    unrefused,
)
from streaming_api.cluster.entries import SEAL_ID, Entry, Fields, Unreadable, decode
from streaming_api.cluster.recorder import Append, Ask, Rewrite, Step

TOGETHER_SECONDS: Final = 0.05
"""How long what can wait waits for a round trip of others."""
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
SEALED_MARK: Final = "sealed"
"""What a `g` key says of an answer that others have ended: it outlives the seal in the stream."""


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
        self._reader = self.connection()
        self._inbox = self.connection(BLOCK_SECONDS + 2 * REPLY_SECONDS)
        self._questions: list[_Question] = []
        self._passengers: list[_Question] = []
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
        passengers, self._passengers = self._passengers, []
        more = (command for question in passengers for command in question.commands)
        try:
            replies = await self._main.run(*commands, *more)
        except BaseException as error:
            _settle(passengers, StoreError(str(error) or "The store was not asked."))
            raise
        _settle(passengers, replies[len(commands) :])
        return replies[: len(commands)]

    async def along(self, *commands: Command) -> list[Any]:
        """Run commands like `run`, together with others if there are any soon.

        Raises:
            StoreError: as in `run`.
        """
        question = _Question(commands)
        self._passengers.append(question)
        asyncio.get_running_loop().call_later(TOGETHER_SECONDS, self.depart)
        return await question.replies

    def depart(self) -> None:
        """Let what waits for others wait no longer."""
        self._questions += self._passengers
        self._passengers.clear()
        if self._questions and self._asking is None:
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
        while self._questions:
            taken, self._questions = self._questions, []
            try:
                replies = await self.run(*(c for question in taken for c in question.commands))
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
        (reply,) = await self._reader.ask(command)
        refs = dict(zip(keys, cursors, strict=True))
        found: dict[str, list[Entry | None]] = {}
        for key, _, fields in messages_of(reply):
            found.setdefault(refs[key], []).append(_entry(fields))
        return found

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
        return await self._inbox.wait(after)


def _entry(fields: Fields) -> Entry | None:
    try:
        return decode(fields)
    except Unreadable:
        return None


def _flat(fields: Mapping[bytes, bytes]) -> list[bytes]:
    return [part for pair in fields.items() for part in pair]
