"""The chat of the page: Markdown, asking again, several conversations, what is kept, focus."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from playwright.async_api import Browser, expect

from tests.browser import ask, browser, needs_chromium, open_chat, open_served
from tests.fakes.upstream import Script

if TYPE_CHECKING:
    from tests.conftest import StartServer
    from tests.fakes.upstream import FakeUpstream

__all__ = ["browser"]

pytestmark = needs_chromium

MARKDOWN = (
    "# Head\n\nSome **bold** and `code`", ", [a link](http://e.org/x)",
    " and [none](javascript:x).\n\n",
    "```python\nprint('<b>')\n", "print(2)\n```\n\n", "| a | b |\n|---|--:|\n| 1 | 2 |\n\n",
    "- one\n- two\n\n<img src=x onerror=alert(1)>\n",
)  # fmt: skip


@pytest.fixture
async def url(start_server: StartServer, upstream: FakeUpstream) -> str:
    upstream.scripts["markdown"] = Script(tokens=MARKDOWN, reasoning=3)
    server = await start_server(api_gateway_endpoint=upstream.url)
    return server.url


async def test_markdown_is_elements_and_markup_is_text(browser: Browser, url: str) -> None:
    page = await open_chat(browser, url)
    await ask(page, "hello", "markdown")
    answer = page.locator(".answered .text")
    await expect(page.locator(".ending")).to_contain_text("tokens/s")
    await expect(answer.locator("h3")).to_have_text("Head")
    await expect(answer.locator("strong")).to_have_text("bold")
    await expect(answer.locator("pre code")).to_have_text("print('<b>')\nprint(2)")
    await expect(answer.locator("td")).to_have_text(["1", "2"])
    await expect(answer.locator("li")).to_have_text(["one", "two"])
    assert await answer.locator("a").evaluate_all("all => all.map(a => a.href)") == [
        "http://e.org/x"
    ]
    await expect(answer).to_contain_text("<img src=x onerror=alert(1)>")
    assert await answer.locator("img, b").count() == 0
    await page.locator(".reasoning summary").click()
    await expect(page.locator(".thoughts")).to_have_text("r0 r1 r2 ")


async def test_code_is_copied_and_frames_are_shown(browser: Browser, url: str) -> None:
    page = await open_chat(browser, url)
    await page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    await ask(page, "hello", "markdown")
    await page.locator(".code-head .copy").click()
    await expect(page.locator(".code-head .copy")).to_have_text("Copied")
    assert await page.evaluate("navigator.clipboard.readText()") == "print('<b>')\nprint(2)"
    await page.locator(".raw summary").click()
    await expect(page.locator(".frames")).to_contain_text('"object":"chat.completion.end"')


async def test_a_question_is_asked_again_or_changed(
    browser: Browser, url: str, upstream: FakeUpstream
) -> None:
    page = await open_chat(browser, url)
    await ask(page, "first", "ten-tokens")
    await expect(page.locator(".ending")).to_contain_text("10 tokens")
    await page.get_by_role("button", name="Retry").click()
    await expect(page.locator(".turn")).to_have_count(1)
    await expect(page.locator(".ending")).to_contain_text("10 tokens")
    assert upstream.started == 2
    await page.get_by_role("button", name="Edit").click()
    await expect(page.locator("#question")).to_have_value("first")
    await expect(page.locator(".turn")).to_have_count(0)
    await ask(page, "second", "ten-tokens")
    await expect(page.locator(".asked .text")).to_have_text("second")


async def test_escape_stops_and_the_focus_stays_in_the_box(
    browser: Browser, url: str, upstream: FakeUpstream
) -> None:
    page = await open_chat(browser, url)
    await ask(page, "go on", "endless")
    await expect(page.locator(".answered .text")).to_contain_text("t3 ")
    await page.keyboard.press("Escape")
    await expect(page.locator(".ending")).to_contain_text("You stopped this answer.")
    await expect(page.locator("#question")).to_be_focused()
    await page.locator("#question").fill("again")
    await page.locator("#model").select_option("endless")
    await page.locator("#chat-send").click()
    await expect(page.locator("#question")).to_be_focused()
    await page.locator("#chat-stop").click()
    await expect(page.locator("#question")).to_be_focused()
    await upstream.until(lambda: upstream.running == 0)


async def test_conversations_are_kept_and_one_above_a_megabyte_too(
    browser: Browser, url: str, upstream: FakeUpstream
) -> None:
    upstream.scripts["large"] = Script(tokens=tuple("x" * 1_000 + " " for _ in range(1_200)))
    page = await open_chat(browser, url)
    await ask(page, "the large one", "large")
    await expect(page.locator(".ending")).to_contain_text("tokens")
    await page.locator("#chat-new").click()
    await expect(page.locator(".turn")).to_have_count(0)
    await ask(page, "the other", "ten-tokens")
    await expect(page.locator(".ending")).to_contain_text("10 tokens")
    await page.reload()
    await expect(page.locator(".asked .text")).to_have_text("the other")
    await page.locator("#conversations").focus()
    await page.locator("#conversations").select_option(label="the large one")
    await expect(page.locator(".asked .text")).to_have_text("the large one")
    shown = await page.locator(".answered .text").inner_text()
    assert shown.count("x") == 1_200_000
    await expect(page.locator("#chat-store")).to_be_hidden()


async def test_it_says_when_nothing_can_be_kept(browser: Browser, url: str) -> None:
    page = await browser.new_page()
    await page.add_init_script("Object.defineProperty(window, 'indexedDB', {value: undefined})")
    await page.goto(f"{url}/#chat")
    await expect(page.locator("#chat-store")).to_contain_text("keeps nothing")
    await ask(page, "hello", "ten-tokens")
    await expect(page.locator(".ending")).to_contain_text("10 tokens")


async def test_parameters_and_a_system_prompt_go_along(
    browser: Browser, url: str, upstream: FakeUpstream
) -> None:
    page = await open_chat(browser, url)
    await page.locator(".settings summary").click()
    await page.locator("#system-prompt").fill("Be brief.")
    await page.locator("#set-temperature").fill("0.5")
    await page.locator("#set-temperature").blur()
    await ask(page, "hello", "ten-tokens")
    await expect(page.locator(".ending")).to_contain_text("10 tokens")
    sent = upstream.generations[-1].request.json()
    assert sent["temperature"] == 0.5
    assert sent["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "hello"},
    ]


async def test_the_drawer_is_a_chat_beside_the_figures(
    browser: Browser, url: str, upstream: FakeUpstream
) -> None:
    gate = upstream.gated(model="gated")
    page = await open_served(browser, url)
    await page.locator("#chat-toggle").click()
    await ask(page, "hello", "gated")
    gate.release(2)
    await expect(page.locator(".answered .text")).to_have_text("t0 t1 ")
    await expect(page.locator("#chart-tokens")).to_be_visible()
    await page.get_by_role("link", name="Chat").click()
    gate.open()
    await expect(page.locator(".ending")).to_contain_text(re.compile("10 tokens"))
    assert upstream.started == 1
