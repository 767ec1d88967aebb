"""Connections to the store, and how it fails. The only module that knows redis-py.

Its time-outs are short and it retries nothing: the caller knows what may be repeated. No request
handler may await it directly: a command that is cancelled while its reply is on the way costs a
connection, and handlers are cancelled with their clients.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final, cast

from hiredis import pack_command
from redis.asyncio import Redis
from redis.asyncio.client import Pipeline
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

REPLY_SECONDS: Final = 0.5
READ_ENTRIES: Final = 200

Command = tuple[Any, ...]
Message = dict[bytes, bytes]
Replies = Callable[[int, float], Awaitable[list[Any]]]
"""Returns so many replies, each in time; errors of single commands are among them."""
_FAULTS: Final = (RedisError, OSError, TimeoutError, RuntimeError)
"""How the client fails; uvloop raises RuntimeError where a connection has just been closed."""


class StoreError(Exception):
    """The store did not do what it was asked, or did not confirm it; a sentence says why."""


class Refused(StoreError):
    """The store has answered and refuses: it is full, or this user lacks permission."""


def is_old(error: object) -> bool:
    """Return whether an append was refused because the stream has its number, or a higher one."""
    return isinstance(error, ResponseError) and "equal or smaller" in str(error)


def reason_of(error: BaseException) -> str:
    """Return a sentence that shows no address and no password."""
    if isinstance(error, TimeoutError) or "Timeout" in type(error).__name__:
        return "The store does not answer in time."
    if isinstance(error, ResponseError):
        return f"The store refuses: {str(error)[:100]}."
    return f"The store cannot be reached ({type(error).__name__})."


class Connection:
    """A connection to the store, opened on first use; concurrent calls open more of them.

    Args:
        url: the store's address; may hold a password, so it is in no message.
        seconds: how long to wait for a reply.

    Attributes:
        trips: how many round trips there were.
    """

    def __init__(self, url: str, *, seconds: float = REPLY_SECONDS) -> None:
        self.trips = 0
        self._seconds = seconds
        self._client: Redis = Redis.from_url(
            url,
            socket_timeout=seconds,
            socket_connect_timeout=REPLY_SECONDS,
            retry=Retry(NoBackoff(), 0),
            health_check_interval=0,
        )

    async def close(self) -> None:
        """Close it."""
        await self._client.aclose()

    async def run(self, *commands: Command) -> list[Any]:
        """Run commands in one round trip; return replies, and errors of single commands among them.

        Raises:
            StoreError: it is unknown what came of them.
        """
        async with self.sending(commands) as replies:
            return await replies(len(commands), self._seconds)

    @asynccontextmanager
    async def sending(self, commands: Sequence[Command]) -> AsyncIterator[Replies]:
        """Send commands in one write, past redis-py's pipeline, which takes six times as long.

        Raises:
            StoreError: it is unknown what came of them.
        """
        self.trips += 1
        connection = await self._send(b"".join(map(pack_command, commands)))
        try:
            yield partial(self._replies, connection)
        except BaseException:  # what was not read must not be taken for a reply to something else
            await connection.disconnect(nowait=True)
            raise
        finally:
            await self._client.connection_pool.release(connection)

    async def _send(self, packed: bytes) -> AbstractConnection:
        """Return the connection on which it was sent."""
        try:
            try:
                return await self._sent(packed)
            except RuntimeError:  # uvloop's: it was reset while it was idle, so nothing was sent
                await self._close_idle()
                return await self._sent(packed)
        except _FAULTS as error:
            raise await self._failure(error) from None

    async def _sent(self, packed: bytes) -> AbstractConnection:
        pool = self._client.connection_pool
        connection: AbstractConnection = await pool.get_connection()  # type: ignore[no-untyped-call]
        try:
            await connection.send_packed_command(packed, check_health=False)
        except BaseException:
            await pool.release(connection)
            raise
        return connection

    async def _replies(
        self, connection: AbstractConnection, count: int, seconds: float
    ) -> list[Any]:
        """Return the next replies; each thousand of them has so many seconds."""
        replies: list[Any] = []
        try:
            async with asyncio.timeout(seconds * (1 + count // 1000)):
                for _ in range(count):
                    try:
                        reply = await connection.read_response(
                            disable_decoding=True, timeout=math.inf
                        )
                    except ResponseError as error:
                        reply = error
                    replies.append(reply)
        except _FAULTS as error:
            raise await self._failure(error) from None
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise asyncio.CancelledError  # which `wait_for` in redis loses if a reply comes then
        return replies

    async def _failure(self, error: BaseException) -> StoreError:
        await self._close_idle()  # what has cut this one has probably cut those, too
        return StoreError(reason_of(error))

    async def _close_idle(self) -> None:
        await self._client.connection_pool.disconnect(inuse_connections=False)

    async def ask(self, *commands: Command) -> list[Any]:
        """Run commands like `run`, where an error of one command is an error of all.

        Raises:
            StoreError: as in `run`.
            Refused: the store refuses.
        """
        return unrefused(await self.run(*commands))

    @asynccontextmanager
    async def watching(self, key: str) -> AsyncIterator[Pipeline]:
        """Begin a transaction that is refused if a key changes before its end.

        Raises:
            StoreError: it is unknown what came of it.
        """
        self.trips += 3  # the key, what decides, and what is done
        try:
            async with self._client.pipeline(transaction=True) as pipeline:
                await pipeline.watch(key)
                yield pipeline
        except _FAULTS as error:
            raise StoreError(reason_of(error)) from None


def unrefused(replies: list[Any]) -> list[Any]:
    """Return replies without an error among them.

    Raises:
        Refused: there is one.
    """
    for reply in replies:
        if isinstance(reply, Exception):
            raise Refused(reason_of(reply))
    return replies


def reading(after: Mapping[str, str], most: int, wait: float | None = None) -> Command:
    """Return the command that reads what follows the ids of some streams.

    Args:
        after: the ids.
        most: number of entries of each stream.
        wait: how many seconds the store waits until there is something.
    """
    block = () if wait is None else ("BLOCK", round(wait * 1000))
    return ("XREAD", "COUNT", most, *block, "STREAMS", *after, *after.values())


def messages_of(reply: object) -> list[tuple[str, str, Message]]:
    """Return XREAD's reply as key, id and message."""
    return [
        (key.decode(), number.decode(), mapping(fields))
        for key, entries in rows_of(reply)
        for number, fields in entries
    ]


def rows_of(reply: object) -> Iterable[tuple[bytes, Sequence[Any]]]:
    """Return XREAD's reply as keys and their entries, whatever protocol gave it."""
    return reply.items() if isinstance(reply, dict) else cast("Sequence[Any]", reply or ())


def mapping(fields: Any) -> Message:  # noqa: ANN401 (redis-py says no more)
    """Return a hash in one form, whatever protocol gave it."""
    if isinstance(fields, dict):
        return fields
    return dict(zip(fields[::2], fields[1::2], strict=True))


def run_of(info: bytes) -> str:
    """Return the name of the store's run, from its reply to INFO."""
    lines = (line.partition(b":") for line in info.splitlines())
    return next((run.decode() for name, _, run in lines if name == b"run_id"), "")
