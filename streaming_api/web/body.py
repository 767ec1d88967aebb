"""A request's JSON body: bounded in size and in time."""

from __future__ import annotations

import asyncio
from typing import Final

from aiohttp import web

from streaming_api.config import StreamingConfig
from streaming_api.errors import BadRequest, TooLarge, Unavailable
from streaming_api.ops.context import CONTEXT, client_of
from streaming_api.wire.commands import parse_object

BODY_SECONDS: Final = 12.0
"""A client that takes longer to send its body holds a connection for nothing. With the seconds that
the rest of a body may linger (`streaming_api.web.http_protocol`) it is gone after 15 seconds."""
BODY_RATE: Final = 128 * 2**10
"""Bytes a second that a large body must come with, on average, beyond that."""
_GIB: Final = 2**30


class Incoming:
    """The bytes of all bodies that are being received.

    Args:
        most: what they may be together.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.bytes = 0

    def add(self, size: int) -> None:
        """Make room for more of a body.

        Raises:
            Unavailable: there is none.
        """
        if self.bytes + size > self.most:
            message = "Too many large requests are being sent; try again later."
            raise Unavailable(message, "too_many_bodies", retry_after=5)
        self.bytes += size


INCOMING: Final = web.AppKey("incoming", Incoming)


def incoming(config: StreamingConfig) -> Incoming:
    """Room for an eighth of the memory, or for one body."""
    return Incoming(max(int(config.memory_gb * _GIB) // 8, config.body_size_limit))


async def raw_body(
    request: web.Request, setting: str = "service.body_size_limit", limit: int | None = None
) -> bytes:
    """The body, inflated.

    Args:
        request: whose.
        setting: which one limits it.
        limit: its value, in bytes; None for that of ``body_size_limit``.

    Raises:
        BadRequest: it came too slowly.
        TooLarge: more bytes than the limit.
        Unavailable: too many large ones at once, or memory is short.
        TooMany: this key or address holds its share of the memory.
    """
    config = request.app[CONTEXT].config
    bodies = request.app[INCOMING]
    share = request.app[CONTEXT].manager.budget.share(client_of(request).name)
    limit = config.body_size_limit if limit is None else limit
    _check_size(request.content_length or 0, limit, setting)
    received = bytearray()
    begun = asyncio.get_running_loop().time()
    try:
        async with asyncio.timeout(min(BODY_SECONDS, config.timeout)) as deadline:
            async for piece in request.content.iter_any():
                _check_size(len(received) + len(piece), limit, setting)
                share.check(len(piece))
                bodies.add(len(piece))
                share.charge(len(piece))
                share.budget.input += len(piece)
                received += piece
                seconds = min(BODY_SECONDS + len(received) / BODY_RATE, config.timeout)
                deadline.reschedule(begun + seconds)
    except TimeoutError:
        message = "The body did not come in time."
        raise BadRequest(message, "slow_body") from None
    finally:
        bodies.bytes -= len(received)
        share.charge(-len(received))
        share.budget.input -= len(received)
    return bytes(received)


def _check_size(size: int, limit: int, setting: str) -> None:
    if size > limit:
        message = f"The body may have {limit} bytes ({setting})."
        raise TooLarge(message, "too_large")


async def json_body(request: web.Request) -> tuple[dict[str, object], bytes]:
    """The body as a JSON object, and as it was written.

    Raises:
        BadRequest: not JSON, not an object, or too slow.
        TooLarge: more than ``body_size_limit`` bytes.
    """
    text = await raw_body(request)
    return parse_object(text), text
