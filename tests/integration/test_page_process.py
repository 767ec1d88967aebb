"""The live page and a real process: stopped, continued, killed, started again."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from playwright.async_api import Browser, expect

from tests.browser import PATIENCE, browser, needs_chromium, open_served
from tests.fakes.prometheus import free_port

__all__ = ["browser"]

pytestmark = needs_chromium

ROOT = Path(__file__).parents[2]


@asynccontextmanager
async def serving(port: int) -> AsyncIterator[asyncio.subprocess.Process]:
    """The server as a process of its own, once it serves."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "streaming_api", "serve", "--port", str(port)),
        cwd=ROOT,
        env={**os.environ, "STREAMING_EMBEDDED_MODEL": "none"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(PATIENCE):
            while b"http://" not in await process.stdout.readline():
                assert process.returncode is None
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def test_a_stopped_process_and_a_killed_one_are_reported_and_drawn(browser: Browser) -> None:
    port = free_port()
    path_with_gap = re.compile("^M.*M")
    async with serving(port) as process:
        page = await open_served(browser, f"http://127.0.0.1:{port}")
        path = page.locator("#chart-connections path.line").last
        await expect(path).to_have_attribute("d", re.compile("^M.*L"))
        process.send_signal(signal.SIGSTOP)
        await expect(page.locator("#verdict-text")).to_contain_text("No news for")
        process.send_signal(signal.SIGCONT)
        await expect(page.locator("#data-age")).to_have_text("live")
        await expect(path).to_have_attribute("d", path_with_gap)
        process.kill()
        await expect(page.locator("#verdict-text")).to_contain_text("No news for")
        await expect(page.locator("#banner")).to_contain_text("Trying")
    async with serving(port):
        await expect(page.locator("#data-age")).to_have_text("live")
        starts = page.locator("#events li", has_text="streaming-api started")
        await expect(starts).to_have_count(2)
