"""A request's JSON body: bounded in size and in time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeVar, cast

from aiohttp import hdrs, web

from streaming_api.answers.idempotency import digest_of
from streaming_api.connections.turns import TURN_BYTES
from streaming_api.errors import BadRequest, TooLarge, UnsupportedCoding
from streaming_api.ops.context import CONTEXT, client_of
from streaming_api.wire import json_text
from streaming_api.wire.objects import parse_object, parsed_bytes

if TYPE_CHECKING:
    from streaming_api.web.one_request import OneRequest

T = TypeVar("T")

BODY_SECONDS: Final = 12.0
"""Seconds that a client may take to send its body; a slower one holds a connection for nothing.
Together with the seconds in which the rest of a body may linger (`streaming_api.web.http_protocol`)
it is gone after 15 seconds."""
BODY_RATE: Final = 128 * 2**10
"""Bytes a second that a large body must average beyond those seconds."""
_INFLATED: Final = frozenset({"gzip", "deflate", "br", "zstd"})
"""Content codings that aiohttp undoes before anybody sees the body, or refuses."""
UNSUPPORTED_CODING: Final = UnsupportedCoding(
    "A body may be compressed with gzip or deflate.", "unsupported_coding"
)


def coding(request: web.Request) -> str:
    """Return the content coding of a request's body, in lower case, "" if it has none."""
    named = request.headers.get(hdrs.CONTENT_ENCODING, "").strip().lower()
    return "" if named == "identity" else named


def is_inflated(request: web.Request) -> bool:
    """Whether the body is compressed on its way here, and read as what it was before."""
    return coding(request) in _INFLATED


async def raw_body(
    request: web.Request, setting: str = "service.body_size_limit", limit: int | None = None
) -> bytes:
    """Return the body, inflated.

    Args:
        request: the request whose body is read.
        setting: the name of the setting that limits it.
        limit: the limit in bytes; None for ``body_size_limit``.

    Raises:
        BadRequest: the body came too slowly.
        TooLarge: it has more bytes than the limit.
        Unavailable: too many large bodies are being read at once, or memory is short.
        TooMany: this key or address holds its share of the memory.
    """
    context = request.app[CONTEXT]
    config, budget = context.config, context.manager.budget
    share = budget.share(client_of(request).name)
    limit = config.body_size_limit if limit is None else limit
    if share.limit < limit:
        limit, setting = share.limit, "a quarter of performance.memory_budget_mb"
    _check_size(request.content_length or 0, limit, setting)
    if request.content.is_eof():  # it came with the head, as most do: nobody waits
        whole = request.content.read_nowait()
        _check_size(len(whole), limit, setting)
        share.check(len(whole))
        return whole
    cast("OneRequest", request.protocol).continue_body()
    received = bytearray()
    begun = asyncio.get_running_loop().time()
    try:
        async with asyncio.timeout(min(BODY_SECONDS, config.timeout)) as deadline:
            async for piece in request.content.iter_any():
                _check_size(len(received) + len(piece), limit, setting)
                share.check(len(piece))
                share.charge(len(piece), budget.input)
                received += piece
                seconds = min(BODY_SECONDS + len(received) / BODY_RATE, config.timeout)
                deadline.reschedule(begun + seconds)
                if is_inflated(request):  # the next piece may be here, and nobody waits for it
                    await context.manager.turns.pause()
    except TimeoutError:
        message = "The body did not come in time."
        raise BadRequest(message, "slow_body") from None
    finally:
        share.charge(-len(received), budget.input)
        del deadline  # it knows this task, whose error would keep it, and this frame and the body
    return bytes(received)


def _check_size(size: int, limit: int, setting: str) -> None:
    if size > limit:
        message = f"The body may have {limit} bytes ({setting})."
        raise TooLarge(message, "too_large")


async def read_json(request: web.Request, make: Callable[[dict[str, object], bytes], T]) -> T:
    """Return what is made of the body, which is a JSON object.

    A large one counts as many commands as a command of its size, and is read in a turn of its own.

    Args:
        request: the request whose body is read.
        make: gets the object, and its bytes as they were sent.

    Raises:
        BadRequest: the body is not JSON, is not an object, or came too slowly.
        TooLarge: it has more than ``body_size_limit`` bytes, or more than one client may hold.
        Unavailable: too many large bodies are being read at once, or memory is short.
        TooMany: this key or address holds its share of the memory.
        UnsupportedCoding: it is compressed in a way that is not read here.
        ApiError: what ``make`` raises.
    """
    if coding(request) and not is_inflated(request):
        raise UNSUPPORTED_CODING
    text = await raw_body(request)
    manager, client = request.app[CONTEXT].manager, client_of(request)
    share = manager.budget.share(client.name)
    share.check(parsed_bytes(text))
    client.owe(len(text))
    if len(text) <= TURN_BYTES:
        return make(parse_object(text), text)
    with share.holding(len(text), manager.budget.input):
        return await manager.turns.run(lambda: make(parse_object(text), text))


async def read_exactly(request: web.Request, key: str | None) -> tuple[dict[str, object], str]:
    """Return the body as a JSON object to be written again: its numbers are those of the client.

    Its digest is the second part: all of it counts, also what is not for the upstream.

    Args:
        request: the request whose body is read.
        key: its ``Idempotency-Key``; without one there is no digest.

    Raises:
        ApiError: as `read_json`.
    """

    def make(_: dict[str, object], text: bytes) -> tuple[dict[str, object], str]:
        return json_text.exact(text), "" if key is None else digest_of(text)

    return await read_json(request, make)
