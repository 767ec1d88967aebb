"""A real Chromium for the tests of the live page, and a cable that can be pulled out."""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Final, Self
from urllib.parse import urlsplit

import pytest
from playwright.async_api import Browser, Locator, Page, async_playwright, expect

if TYPE_CHECKING:
    from types import TracebackType

CHROMIUM: Final = shutil.which("chromium")
ARGUMENTS: Final = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
PATIENCE: Final = 20.0
"""Seconds until a condition must hold; how fast the machine is does not matter."""

needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="needs Chromium: apt-get install chromium (Debian package chromium)"
)
expect.set_options(timeout=PATIENCE * 1000)


class Cable:
    """A TCP forwarder between browser and server, to pull out and plug in again."""

    def __init__(self, target: str) -> None:
        parts = urlsplit(target)
        self._target = (parts.hostname or "", parts.port or 0)
        self._port = 0
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._carriers: set[asyncio.Task[None]] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()

    def hold(self) -> None:
        """Deliver nothing any more in either direction, and say nothing of it."""
        self._flowing.clear()

    def release(self) -> None:
        """Deliver again, what was held first."""
        self._flowing.set()

    @property
    def url(self) -> str:
        """What the browser opens."""
        return f"http://127.0.0.1:{self._port}"

    async def __aenter__(self) -> Self:
        """Plug it in."""
        await self.plug_in()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Pull it out, for good."""
        self.pull_out()
        await asyncio.gather(*self._carriers, return_exceptions=True)

    async def plug_in(self) -> None:
        """Accept connections, on the same port each time."""
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    def pull_out(self) -> None:
        """Break every connection and refuse new ones, as a server that is gone does."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in self._writers:
            writer.transport.abort()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        carrier = asyncio.current_task()
        assert carrier is not None
        self._carriers.add(carrier)
        carrier.add_done_callback(self._carriers.discard)
        far_reader, far_writer = await asyncio.open_connection(*self._target)
        ends = {writer, far_writer}
        self._writers |= ends
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(_pump(reader, far_writer, self._flowing))
                group.create_task(_pump(far_reader, writer, self._flowing))
        finally:
            self._writers -= ends
            for end in ends:
                end.transport.abort()


async def _pump(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, flowing: asyncio.Event
) -> None:
    try:
        while data := await reader.read(65536):
            await flowing.wait()
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    writer.close()


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    """A Chromium of its own for each test."""
    async with async_playwright() as playwright:
        launched = await playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield launched
        await launched.close()


async def open_page(browser: Browser, url: str, *, width: int = 1280, path: str = "/") -> Page:
    """A new tab that shows the page."""
    page = await browser.new_page(viewport={"width": width, "height": 900})
    page.set_default_timeout(PATIENCE * 1000)
    await page.goto(url + path)
    return page


async def open_served(browser: Browser, url: str, *, width: int = 1280, path: str = "/") -> Page:
    """A new tab that shows the page, connected."""
    page = await open_page(browser, url, width=width, path=path)
    await expect(page.locator("#data-age")).to_have_text(re.compile("^live|ago"))
    return page


async def open_chat(browser: Browser, url: str, *, width: int = 1280) -> Page:
    """A new tab with the chat, connected."""
    return await open_served(browser, url, width=width, path="/#chat")


async def ask(page: Page, question: str, model: str) -> None:
    """Choose a model, type a question and press Enter."""
    await page.locator("#model").select_option(model)
    await page.locator("#question").fill(question)
    await expect(page.locator("#chat-send")).to_be_enabled()
    await page.locator("#question").press("Enter")


async def enter_key(page: Page, secret: str) -> None:
    """Give the page a key."""
    await page.locator("#key-input").fill(secret)
    await page.locator("#key-input").press("Enter")


def readout(page: Page, chart: str, label: str) -> Locator:
    """A value beside a chart's title."""
    return page.locator(f"#chart-{chart} .readout", has_text=label).locator(".value")
