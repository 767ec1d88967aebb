"""A response that is JSON, made for this moment: nobody may keep it."""

from __future__ import annotations

import orjson
from aiohttp import web


def json_reply(value: object, status: int = 200) -> web.Response:
    """Return a response whose body is this value as JSON."""
    return json_bytes_reply(orjson.dumps(value), status)


def json_bytes_reply(body: bytes, status: int = 200) -> web.Response:
    """Return a response whose body is this JSON."""
    return web.Response(
        body=body,
        status=status,
        content_type="application/json",
        headers={"Cache-Control": "no-store"},
    )
