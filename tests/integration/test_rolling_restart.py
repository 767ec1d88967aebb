"""A restart of two servers in turn behind a real nginx, as it is shipped, costs no request."""

from __future__ import annotations

import asyncio
import itertools
import signal
import time
from collections import Counter
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from pathlib import Path

import pytest

from tests.clients import UNIT, eventually, http
from tests.fakes.upstream import FakeUpstream
from tests.nginx import NGINX, nginx
from tests.workers import Service, serving

RATE = 40
"""Requests a second."""
QUESTION = {"model": "any", "messages": [{"role": "user", "content": "Hello"}]}

pytestmark = pytest.mark.skipif(NGINX is None, reason="nginx is missing: apt-get install nginx")


async def test_restarting_two_one_after_the_other_costs_no_request(
    tmp_path: Path, upstream: FakeUpstream
) -> None:
    """At the default drain delay; as soon as the first is back, the second is restarted.

    Every other request is a question, which the upstream must be asked once.
    """
    async with AsyncExitStack() as stack:

        def start(*arguments: str) -> AbstractAsyncContextManager[Service]:
            return serving(*arguments, API_GATEWAY_ENDPOINT=upstream.url)

        services = [await stack.enter_async_context(start()) for _ in range(2)]
        ports = [int(service.url.rpartition(":")[2]) for service in services]
        url = await stack.enter_async_context(nginx(tmp_path, *ports))
        client = await stack.enter_async_context(http(url, timeout=4 * UNIT))
        seen: Counter[int] = Counter()
        longest = 0.0
        over = asyncio.Event()

        async def ask(number: int) -> None:
            nonlocal longest
            begun = time.monotonic()
            if number % 2:
                reply = await client.get("/streaming/status")
            else:
                reply = await client.post("/v1/chat/completions", json=QUESTION)
            seen[reply.status_code] += 1
            longest = max(longest, time.monotonic() - begun)

        async def keep_asking() -> None:
            async with asyncio.TaskGroup() as requests:
                for number in itertools.count():
                    if over.is_set():
                        break
                    requests.create_task(ask(number))
                    await asyncio.sleep(1 / RATE)

        async def more() -> None:
            before = seen.total()
            await eventually(lambda: seen.total() > before + RATE, 4 * UNIT)

        asking = asyncio.create_task(keep_asking())
        await more()
        for service, port in zip(services, ports, strict=True):
            service.signal(signal.SIGTERM)
            assert await service.ended() == 0
            await more()
            await stack.enter_async_context(start("--port", str(port)))
        await more()
        over.set()
        await asking
        assert set(seen) == {200}, f"the longest took {longest:.3f} s"
        assert longest < UNIT
        assert len(upstream.generations) == (seen.total() + 1) // 2
