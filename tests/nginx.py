"""A real nginx: with conf/nginx.conf, on another port and before other servers, or any other."""

from __future__ import annotations

import asyncio
import shutil
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import pytest

SAMPLE: Final = Path(__file__).parents[1] / "conf" / "nginx.conf"
NGINX: Final = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
_START_SECONDS: Final = 10.0

FRAME: Final = """
daemon off;
master_process off;
pid {folder}/pid;
error_log {folder}/error.log;
events {{ }}
http {{
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    {http}
}}
"""
COMPRESSING: Final = "gzip on; gzip_types text/event-stream;\n"


@asynccontextmanager
async def nginx(
    folder: Path, *ports: int, change: Callable[[str], str] = lambda sample: sample
) -> AsyncIterator[str]:
    """``async with nginx(tmp_path, 9096) as url``: runs while the block does.

    Args:
        folder: for its files; the access log is ``access.log`` in it.
        ports: of the servers behind it, on loopback.
        change: to make to the configuration first.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    sample = change(SAMPLE.read_text(encoding="utf-8"))
    one = "server 127.0.0.1:9096 max_fails=0;"
    servers = "\n".join(one.replace("9096", str(port)) for port in ports)
    for old, new in (
        ("listen 80;", f"listen 127.0.0.1:{port};"),
        (one, servers),
        ("/var/log/nginx/streaming-api.log", f"{folder}/access.log"),
    ):
        assert old in sample
        sample = sample.replace(old, new)
    async with running(folder, COMPRESSING + sample):
        yield f"http://127.0.0.1:{port}"


@asynccontextmanager
async def running(folder: Path, http: str) -> AsyncIterator[None]:
    """An nginx with this inside its ``http`` block, while the block runs."""
    file = folder / "nginx.conf"
    file.write_text(FRAME.format(folder=folder, http=http), encoding="utf-8")
    if NGINX is None:
        pytest.skip("nginx is missing: apt-get install nginx")
    process = await asyncio.create_subprocess_exec(NGINX, "-e", "stderr", "-c", file)
    try:
        async with asyncio.timeout(_START_SECONDS):
            while not (folder / "pid").exists():
                assert process.returncode is None, "nginx did not start"
                await asyncio.sleep(0.02)
        yield
    finally:
        process.terminate()
        await process.wait()
