"""A relay that stores and announces every token. Run as ``python -m ...per_token_app PORT``."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import AsyncIterator

import aiohttp
import uvloop
from aiohttp import web
from redis.asyncio import Redis

UPSTREAM = aiohttp.web.AppKey("upstream", aiohttp.ClientSession)
STORE = aiohttp.web.AppKey("store", Redis)
HEADERS = {"Content-Type": "application/json"}


async def completions(request: web.Request) -> web.StreamResponse:
    """Relay an answer; each event is in a stream and on a channel before the client has it."""
    store = request.app[STORE]
    name = f"answer:{secrets.token_hex(8)}"
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    url = f"{os.environ['UPSTREAM']}/v1/chat/completions"
    body = await request.read()
    async with request.app[UPSTREAM].post(url, data=body, headers=HEADERS) as answer:
        async for line in answer.content:
            if line.startswith(b"data: "):
                await store.xadd(name, {"d": line})
                await store.publish(name, line)
                await response.write(line + b"\n")
    await store.expire(name, 60)
    await response.write_eof()
    return response


async def health(_: web.Request) -> web.Response:
    """Say that the server is up."""
    return web.Response()


async def connections(app: web.Application) -> AsyncIterator[None]:
    """The upstream's and the store's, while it serves."""
    connector = aiohttp.TCPConnector(limit=0)
    async with (
        aiohttp.ClientSession(connector=connector, trust_env=False) as session,
        Redis.from_url(os.environ["STORE"]) as store,
    ):
        app[UPSTREAM], app[STORE] = session, store
        yield


def main() -> None:
    """Serve until killed."""
    app = web.Application()
    app.router.add_post("/v1/chat/completions", completions)
    app.router.add_get("/health", health)
    app.cleanup_ctx.append(connections)
    uvloop.install()
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), access_log=None, print=None)


if __name__ == "__main__":
    main()
