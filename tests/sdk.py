"""The `openai` package with only its address changed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import openai

from streaming_api.service import StreamingService
from tests.fakes.upstream import FakeUpstream


def sdk(server: StreamingService, *, attempts: int = 3) -> openai.AsyncOpenAI:
    """A client of a server; it knows no proxy, and loads no certificates, which takes long."""
    return openai.AsyncOpenAI(
        base_url=f"{server.url}/v1",
        api_key="sk-client",
        max_retries=attempts - 1,
        http_client=openai.DefaultAsyncHttpxClient(trust_env=False, verify=False),
    )


@asynccontextmanager
async def moody(upstream: FakeUpstream) -> AsyncIterator[None]:
    """Have the model `moody` fail at its first generation, and no more."""
    upstream.scripts["moody"] = upstream.scripts["error-500"]

    async def mend() -> None:
        await upstream.generation()
        del upstream.scripts["moody"]

    mending = asyncio.create_task(mend())
    yield
    await mending
