"""The page of docs/clients.md: an unmodified `useChat({resume: true})` in a real browser."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Final

import pytest
from aiohttp import web
from playwright.async_api import Browser, Page, async_playwright, expect

from streaming_api.service import StreamingService
from tests.conftest import StartServer
from tests.fakes.upstream import FakeUpstream, Gate, Script

ROOT: Final = Path(__file__).parent.parent.parent
NODE: Final = ROOT / ".clients/node"
CHROMIUM: Final = shutil.which("chromium")
HERE: Final = "http://127.0.0.1:9096"
RELOADS: Final = int(os.environ.get("RELOADS", "12"))
"""Reloads in mid-answer; RELOADS=200 is the long form."""
TOKENS_BETWEEN: Final = 5
PATIENCE: Final = 15_000  # milliseconds

pytestmark = pytest.mark.skipif(
    CHROMIUM is None or not (NODE / "node_modules").is_dir(),
    reason="needs: apt-get install chromium, tests/other_clients/install",
)


@pytest.fixture(scope="module")
def source() -> str:
    """The page as the document has it."""
    found = re.search(r"```jsx\n(.*?)```", (ROOT / "docs/clients.md").read_text(), re.DOTALL)
    assert found is not None
    return found[1]


@pytest.fixture
async def origin() -> AsyncIterator[tuple[str, dict[str, str]]]:
    """Where the page comes from, which is not this server, and the script that it gets."""
    script = {"text": ""}

    async def page(_: web.Request) -> web.Response:
        html = '<!doctype html><div id="root"></div><script src="/page.js"></script>'
        return web.Response(text=html, content_type="text/html")

    async def code(_: web.Request) -> web.Response:
        return web.Response(text=script["text"], content_type="text/javascript")

    app = web.Application()
    app.router.add_get("/", page)
    app.router.add_get("/page.js", code)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}", script
    await runner.cleanup()


@pytest.fixture
async def server(
    start_server: StartServer, upstream: FakeUpstream, origin: tuple[str, dict[str, str]]
) -> StreamingService:
    return await start_server(
        api_gateway_endpoint=upstream.url, allowed_origins=(origin[0],), resume_grace=20
    )


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        launched = await playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        yield launched
        await launched.close()


@pytest.fixture
async def page(
    browser: Browser,
    server: StreamingService,
    origin: tuple[str, dict[str, str]],
    source: str,
    tmp_path: Path,
) -> AsyncIterator[Page]:
    """The page, built as its authors would build it, and opened."""
    url, script = origin
    entry = NODE / f"{tmp_path.name}.jsx"  # its imports are found beside it
    entry.write_text(source.replace(HERE, server.url))
    try:
        command = [
            str(NODE / "node_modules/.bin/esbuild"), str(entry), "--bundle", "--jsx=automatic",
            "--log-level=error",
        ]  # fmt: skip
        building = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        built, complaints = await building.communicate()
        assert building.returncode == 0, complaints.decode()
        script["text"] = built.decode()
    finally:
        entry.unlink()
    context = await browser.new_context()
    context.set_default_timeout(PATIENCE)
    opened = await context.new_page()
    await opened.goto(url)
    yield opened
    await context.close()


async def said(page: Page) -> str:
    """What the assistant says on the page: one message, or none yet."""
    texts = await page.locator("p.assistant").all_inner_texts()
    assert len(texts) <= 1, "a message is doubled"
    return texts[0] if texts else ""


def is_beginning(text: str) -> bool:
    """Whether a text is numbered tokens from the first one on, the last perhaps not whole."""
    whole = "".join(f"t{number} " for number in range(len(text)))
    return whole.startswith(text)


async def test_reloads_in_mid_answer_lose_and_double_nothing(
    page: Page, upstream: FakeUpstream, record_property: Callable[[str, object], None]
) -> None:
    gate = Gate()
    tokens = TOKENS_BETWEEN * (RELOADS + 1)
    upstream.default = Script(tokens=tokens, gate=gate)
    await page.locator("#send").click()
    for number in range(1, RELOADS + 1):
        gate.release(TOKENS_BETWEEN)
        last = f"t{number * TOKENS_BETWEEN - 1}"
        await expect(page.locator("p.assistant")).to_contain_text(last, timeout=PATIENCE)
        assert is_beginning(await said(page))
        await page.reload()
    gate.open()
    await expect(page.locator("output")).to_have_text("ready", timeout=PATIENCE)
    await expect(page.locator("p.assistant")).to_have_text(
        upstream.default.text(), timeout=PATIENCE
    )
    assert len(upstream.generations) == 1
    await page.reload()  # it has ended: the page has it, and the server has nothing to add
    await expect(page.locator("output")).to_have_text("ready")
    assert (await said(page)).strip() == upstream.default.text().strip()
    for name, value in (
        ("wire", "`useChat`, a page that is reloaded"),
        ("cuts", RELOADS),
        ("answers", len(upstream.generations)),
        ("tokens", tokens),
    ):
        record_property(name, value)


async def test_two_tabs_show_the_same_answer(
    page: Page, upstream: FakeUpstream, origin: tuple[str, dict[str, str]]
) -> None:
    gate = upstream.gated()
    await page.locator("#send").click()
    gate.release(3)
    await expect(page.locator("p.assistant")).to_contain_text("t2")
    other = await page.context.new_page()
    await other.goto(origin[0])
    await expect(other.locator("p.assistant")).to_contain_text("t2")
    gate.open()
    for tab in (page, other):
        await expect(tab.locator("p.assistant")).to_have_text(upstream.default.text())
        await expect(tab.locator("output")).to_have_text("ready")
    assert len(upstream.generations) == 1


async def test_stop_after_a_reload_ends_the_answer(
    page: Page, upstream: FakeUpstream, server: StreamingService
) -> None:
    upstream.default = Script(endless=True, rate=50)
    await page.locator("#send").click()
    await expect(page.locator("p.assistant")).to_contain_text("t2")
    await page.reload()
    await expect(page.locator("p.assistant")).to_contain_text("t3")
    await page.evaluate("url => fetch(url, {method: 'DELETE'})", f"{server.url}/api/chat/my-chat")
    await (await upstream.generation()).wait_closed()
    await expect(page.locator("output")).to_have_text("ready")
