"""A request's JSON body: bounded in size and in time."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from streaming_api.errors import BadRequest, TooLarge
from streaming_api.ops.context import CONTEXT
from streaming_api.wire.commands import parse_object

if TYPE_CHECKING:
    from aiohttp import web

BODY_SECONDS: Final = 12.0
"""A client that takes longer to send its body holds a connection for nothing. With the seconds that
the rest of a body may linger (`streaming_api.web.http_protocol`) it is gone after 15 seconds."""


async def raw_body(request: web.Request) -> bytes:
    """The body.

    Raises:
        BadRequest: it came too slowly.
        TooLarge: more than ``message_size_limit`` bytes.
    """
    config = request.app[CONTEXT].config
    limit = config.message_size_limit
    received = bytearray()
    try:
        async with asyncio.timeout(min(BODY_SECONDS, config.timeout)):
            async for piece in request.content.iter_any():
                received += piece
                if len(received) > limit:
                    message = f"The body may have {limit} bytes (websocket.message_size_limit)."
                    raise TooLarge(message, "too_large")
    except TimeoutError:
        message = "The body did not come in time."
        raise BadRequest(message, "slow_body") from None
    return bytes(received)


async def json_body(request: web.Request) -> tuple[dict[str, object], bytes]:
    """The body as a JSON object, and as it was written.

    Raises:
        BadRequest: not JSON, not an object, or too slow.
        TooLarge: more than ``message_size_limit`` bytes.
    """
    text = await raw_body(request)
    return parse_object(text), text
