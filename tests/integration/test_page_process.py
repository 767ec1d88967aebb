"""The live page and a real process: stopped, continued, killed, started again."""

from __future__ import annotations

import re
import signal

from playwright.async_api import Browser, expect

from tests.browser import browser, needs_chromium, open_served
from tests.fakes.prometheus import free_port
from tests.workers import serving

__all__ = ["browser"]

pytestmark = needs_chromium


async def test_a_stopped_process_and_a_killed_one_are_reported_and_drawn(browser: Browser) -> None:
    port = free_port()
    path_with_gap = re.compile("^M.*M")
    async with serving("--port", str(port)) as service:
        page = await open_served(browser, f"http://127.0.0.1:{port}")
        path = page.locator("#chart-connections path.line").last
        await expect(path).to_have_attribute("d", re.compile("^M.*L"))
        service.signal(signal.SIGSTOP)
        await expect(page.locator("#verdict-text")).to_contain_text("No news for")
        service.signal(signal.SIGCONT)
        await expect(page.locator("#data-age")).to_have_text("live")
        await expect(path).to_have_attribute("d", path_with_gap)
        service.signal(signal.SIGKILL)
        await expect(page.locator("#verdict-text")).to_contain_text("No news for")
        await expect(page.locator("#banner")).to_contain_text("Trying")
    async with serving("--port", str(port)):
        await expect(page.locator("#data-age")).to_have_text("live")
        starts = page.locator("#events li", has_text="streaming-api started")
        await expect(starts).to_have_count(2)
