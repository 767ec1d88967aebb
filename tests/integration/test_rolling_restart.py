"""A restart of one of two servers behind a real nginx costs no request."""

from __future__ import annotations

import asyncio
import shutil
import signal
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from tests.clients import UNIT, eventually, http
from tests.workers import serving

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
RATE = 40
"""Requests a second."""

pytestmark = pytest.mark.skipif(NGINX is None, reason="nginx is missing: apt-get install nginx")

CONFIGURATION = """
daemon off;
master_process off;
pid {folder}/pid;
error_log {folder}/error.log;
events {{ }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    upstream servers {{ server 127.0.0.1:{one}; server 127.0.0.1:{two}; keepalive 32; }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://servers;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $host;
            proxy_next_upstream error timeout;
        }}
    }}
}}
"""


@asynccontextmanager
async def nginx(folder: Path, one: int, two: int) -> AsyncIterator[str]:
    """Nginx in front of two ports; its address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    file = folder / "nginx.conf"
    file.write_text(CONFIGURATION.format(folder=folder, one=one, two=two, port=port))
    assert NGINX is not None
    process = await asyncio.create_subprocess_exec(NGINX, "-e", "stderr", "-c", file)
    try:
        await eventually(lambda: (folder / "pid").exists() or process.returncode is not None)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        await process.wait()


async def test_restarting_one_of_two_costs_no_request(tmp_path: Path) -> None:
    """At the default drain delay; while requests come, one server ends and another takes over."""
    async with AsyncExitStack() as stack:
        services = [await stack.enter_async_context(serving()) for _ in range(2)]
        ports = [int(service.url.rpartition(":")[2]) for service in services]
        url = await stack.enter_async_context(nginx(tmp_path, *ports))
        client = await stack.enter_async_context(http(url, timeout=4 * UNIT))
        seen: Counter[int] = Counter()
        longest = 0.0
        over = asyncio.Event()

        async def ask() -> None:
            nonlocal longest
            begun = time.monotonic()
            seen[(await client.get("/streaming/status")).status_code] += 1
            longest = max(longest, time.monotonic() - begun)

        async def keep_asking() -> None:
            async with asyncio.TaskGroup() as requests:
                while not over.is_set():
                    requests.create_task(ask())
                    await asyncio.sleep(1 / RATE)

        asking = asyncio.create_task(keep_asking())
        await eventually(lambda: seen[200] > RATE, 4 * UNIT)
        services[0].signal(signal.SIGTERM)
        assert await services[0].ended() == 0
        ended = seen.total()
        await eventually(lambda: seen.total() > ended + RATE, 4 * UNIT)
        await stack.enter_async_context(serving("--port", str(ports[0])))
        back = seen.total()
        await eventually(lambda: seen.total() > back + RATE, 4 * UNIT)
        over.set()
        await asking
        assert set(seen) == {200}, f"the longest took {longest:.3f} s"
        assert longest < UNIT
