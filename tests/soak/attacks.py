"""Clients that cost a server memory: each is one visit, from an address of its own.

What they have in common: they send more than they must, or read less, or leave in the middle.
"""

from __future__ import annotations

import asyncio
import json
import random
import uuid
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress
from typing import Final

import attrs

from tests.clients import question
from tests.integration.test_hostile import DEFLATE, UPGRADE, deflated, frame
from tests.raw import Raw, raw

LARGE: Final = "large"
"""A model whose answers have 3 MB: any that the gateway has no script for."""
SMALL: Final = "ten-tokens"
FACES: Final = ("/v1/chat/completions", "/streaming/sse/chat", "/v1/responses", "/api/chat")
_STINGY: Final = 4_096
"""Bytes of the receive buffer of one who does not want to read."""


@attrs.frozen
class Visit:
    """One visit of somebody.

    Attributes:
        url: of the server.
        address: where the visitor comes from.
        chance: decides what is left open.
        seconds: for how long connections are held.
        most: the size of what is sent, in bytes; the largest that is taken is 1,000,000.
    """

    url: str
    address: str
    chance: random.Random
    seconds: float
    most: int = 900_000

    def connect(self, *, stingy: bool = False) -> AbstractAsyncContextManager[Raw]:
        """Open a connection, with a small receive buffer if nothing will be read."""
        return raw(self.url, address=self.address, receive_buffer=_STINGY if stingy else None)

    async def hold(self) -> None:
        """Keep what is open."""
        await asyncio.sleep(self.seconds)


def _body(face: str, model: str, pad: int = 0) -> dict[str, object]:
    """Ask for a streamed answer in the words of a face."""
    text = "Hello" + "x" * pad
    if face == "/v1/responses":
        return {"model": model, "input": text, "stream": True}
    if face == "/api/chat":
        message = {"id": "m", "role": "user", "parts": [{"type": "text", "text": text}]}
        return {"id": uuid.uuid4().hex, "model": model, "messages": [message]}
    return question(model, messages=[{"role": "user", "content": text}], stream=True)


def _start(model: str, pad: int = 0, **fields: object) -> bytes:
    body = question(model, message_type="chat_completion", user="x" * pad, **fields)
    return json.dumps(body).encode()


async def _upgrade(tcp: Raw, *, deflate: bool = False) -> None:
    await tcp.send((UPGRADE + (DEFLATE if deflate else "") + "\r\n").encode())
    await tcp.until(b"\r\n\r\n")


async def _read(tcp: Raw) -> int:
    """Read all that comes until the server ends it, or is silent; how much it was."""
    size = len(tcp.received)
    tcp.received = b""
    with suppress(TimeoutError):
        while await tcp.more():
            size += len(tcp.received)
            tcp.received = b""
    return size


async def deflated_starts(visit: Visit) -> None:
    """Ten starts of a megabyte, each deflated to a thousandth, on one socket."""
    async with visit.connect() as tcp:
        await _upgrade(tcp, deflate=True)
        bomb = frame(deflated(_start(LARGE, visit.most)), bits=0x40)
        await tcp.send(bomb * 10)
        await visit.hold()


async def many_ids(visit: Visit) -> None:
    """Fifty answers at once under names of their own, each asked for at some length."""
    async with visit.connect() as tcp:
        await _upgrade(tcp)
        for _ in range(50):
            await tcp.send(frame(_start(SMALL, visit.most // 50, request_id=uuid.uuid4().hex)))
        await visit.hold()


async def never_reads(visit: Visit) -> None:
    """Three answers of 3 MB that nobody reads, and that are to be finished all the same."""
    async with visit.connect(stingy=True) as tcp:
        await _upgrade(tcp)
        for _ in range(3):
            await tcp.send(frame(_start(LARGE, on_disconnect="finish")))
        await visit.hold()


async def crawls(visit: Visit) -> None:
    """An answer of 3 MB in the words of some face, read a little now and then."""
    face = visit.chance.choice(FACES)
    async with visit.connect(stingy=True) as tcp:
        await tcp.request("POST", face, _body(face, LARGE))
        until = asyncio.get_running_loop().time() + visit.seconds
        while asyncio.get_running_loop().time() < until and await tcp.more():
            tcp.received = b""
            await asyncio.sleep(0.05)


async def many_watch_one(visit: Visit) -> None:
    """An answer of 3 MB that ten others watch, none of whom reads."""
    name = uuid.uuid4().hex
    async with AsyncExitStack() as stack:
        for number in range(10):
            tcp = await stack.enter_async_context(visit.connect(stingy=True))
            await _upgrade(tcp)
            command: dict[str, object] = {"message_type": "chat_completion", "request_id": name}
            resumed = json.dumps(command | {"action": "resume"}).encode()
            await tcp.send(frame(resumed if number else _start(LARGE, request_id=name)))
        await visit.hold()


async def half_a_body(visit: Visit) -> None:
    """The larger part of a body, and never the rest."""
    async with visit.connect() as tcp:
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {2**21}"
        await tcp.send(head.encode() + b"\r\n\r\n" + b" " * (2 * visit.most))
        await visit.hold()


async def half_a_message(visit: Visit) -> None:
    """The larger part of a message, and never the rest."""
    async with visit.connect() as tcp:
        await _upgrade(tcp)
        await tcp.send(frame(b" " * visit.most, fin=False))
        await visit.hold()


async def pipelined_bodies(visit: Visit) -> None:
    """Twenty requests with bodies in one go; the replies are read."""
    body = json.dumps(_body(FACES[0], SMALL, visit.most // 10) | {"stream": False}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}"
    async with visit.connect() as tcp:
        reading = asyncio.ensure_future(_read(tcp))
        try:
            await tcp.send((head.encode() + b"\r\n\r\n" + body) * 20)
            await visit.hold()
        finally:
            reading.cancel()
            with suppress(asyncio.CancelledError, OSError):
                await reading


async def kept_conversations(visit: Visit) -> None:
    """A long conversation that is to be kept, of many small values."""
    items = [{"role": "user", "content": "x"} for _ in range(visit.most // 50)]
    body = {"model": SMALL, "input": items, "stream": True}
    async with visit.connect() as tcp:
        await tcp.request("POST", "/v1/responses", body)
        await _read(tcp)


async def reads(visit: Visit) -> None:
    """An answer of 3 MB in the words of some face, read as it comes."""
    face = visit.chance.choice(FACES)
    async with visit.connect() as tcp:
        await tcp.request("POST", face, _body(face, LARGE))
        await _read(tcp)


ATTACKS: Final[tuple[Callable[[Visit], Coroutine[None, None, None]], ...]] = (
    deflated_starts, many_ids, never_reads, crawls, many_watch_one, half_a_body, half_a_message,
    pipelined_bodies, kept_conversations, reads,
)  # fmt: skip
