"""``python -m tests.soak.hostile URL KIND``: sockets that cost work, in a process of their own.

Each comes from an address of its own, comes back whenever the server has had enough of it, and goes
on until the process is killed.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import uvloop

from tests.clients import question
from tests.integration.test_hostile import DEFLATE, UPGRADE, frame
from tests.integration.test_work import ATTACKS
from tests.raw import raw
from tests.soak.attacks import LARGE, SMALL

SOCKETS: Final = 10
_PROSE: Final = 'A line of what somebody wrote, with quotes " and ends.\n'
_BODY_BYTES: Final = 10_000_000


def _starts() -> bytes:
    start = question(SMALL, message_type="chat_completion")
    return frame(json.dumps(start).encode()) * 100


def _bodies() -> bytes:
    text = _PROSE * (_BODY_BYTES // len(_PROSE))
    messages = [{"role": "user", "content": text}]
    body = json.dumps(question(SMALL, messages=messages, stream=True)).encode()
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
        f"Idempotency-Key: k\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def _unread() -> bytes:
    body = json.dumps(question(LARGE, stream=True)).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}"
    return head.encode() + b"\r\n\r\n" + body


WEBSOCKET: Final[dict[str, Callable[[], bytes]]] = {
    "chat starts": _starts,
    "deflated commands": lambda: ATTACKS["deflated commands"],
    "frames of one byte": lambda: ATTACKS["frames of one byte"],
}
HTTP: Final[dict[str, Callable[[], bytes]]] = {
    "bodies of 10 MB": _bodies,
    "unread answers": _unread,
}
KINDS: Final = (*WEBSOCKET, *HTTP)


async def _visit(url: str, kind: str, address: str, data: bytes) -> None:
    stingy = 4_096 if kind == "unread answers" else None
    async with raw(url, address=address, receive_buffer=stingy) as tcp:
        if kind in WEBSOCKET:
            await tcp.send((UPGRADE + DEFLATE + "\r\n").encode())
            await tcp.until(b"\r\n\r\n")
        if stingy is not None:
            await tcp.send(data)
            await asyncio.sleep(3)
            return
        await tcp.flood(data)


async def _again_and_again(url: str, kind: str, address: str) -> None:
    data = (WEBSOCKET | HTTP)[kind]()
    for _ in itertools.count():
        with suppress(OSError, AssertionError, TimeoutError):
            await _visit(url, kind, address, data)
        await asyncio.sleep(0.01)


async def _attack(url: str, kind: str) -> None:
    await asyncio.gather(
        *(_again_and_again(url, kind, f"127.0.0.{2 + number}") for number in range(SOCKETS))
    )


if __name__ == "__main__":
    uvloop.run(_attack(sys.argv[1], sys.argv[2]))
