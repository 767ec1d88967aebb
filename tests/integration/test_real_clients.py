"""Clients that other people wrote come back by themselves, and lose and double nothing.

npm's `eventsource` and `ws`, EventSource and WebSocket of Debian's Chromium, and the reconnecting
loops of `websockets` and `httpx-sse`. `openai` has a file of its own (test_openai.py).
"""

from __future__ import annotations

import asyncio
import json
import random
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import httpx
import pytest
import websockets
from playwright.async_api import Browser, Page, async_playwright

from streaming_api.service import StreamingService
from tests.clients import Message, content, events, is_end, noise, question, valid, websocket
from tests.conformance.environments import HERE, Missing, node
from tests.conftest import StartServer
from tests.fakes.cutter import Cutter, cutter
from tests.fakes.upstream import FakeUpstream, Script

TOKENS: Final = 150
CUTS: Final = 8
PATIENCE: Final = 30.0
"""Seconds that anything may take; never waited for when all is well."""
SPARE: Final = 1
"""Connections that Chromium may open ahead and not use; each takes its turn at being cut."""
CHROMIUM: Final = shutil.which("chromium")
RETRY: Final = 20
"""Milliseconds after which an EventSource comes again: the server says so."""

needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="needs Chromium: apt-get install chromium"
)


def budgets(seed: int) -> list[int]:
    """Bytes after which connections are cut: behind the head and the `retry:`, anywhere else."""
    chance = random.Random(seed)
    return [chance.randrange(700, 3_000) for _ in range(CUTS)]


def assert_whole(seen: list[Message], upstream: FakeUpstream) -> None:
    """Every message of the answer, once, in order; and it was written once."""
    numbers = [message["sequence_id"] for message in seen]
    assert numbers == list(range(1, len(seen) + 1))
    assert content(seen) == upstream.default.text()
    assert is_end(seen[-1])
    assert seen[-1]["data"]["finish_reason"] == "stop"
    assert len(upstream.generations) == 1


@pytest.fixture
async def server(start_server: StartServer, upstream: FakeUpstream) -> StreamingService:
    """With an answer long enough to be cut, and clients that come again at once."""
    upstream.default = Script(tokens=tuple(noise(200, n) for n in range(TOKENS)))
    return await start_server(
        api_gateway_endpoint=upstream.url, sse_retry_timeout=RETRY, poll_interval=3_600
    )


@pytest.fixture
async def answered(server: StreamingService) -> str:
    """The request_id of an answer that is complete and kept."""
    async with websocket(server.url) as socket:
        await socket.start("r-1")
        await socket.answer()
    return "r-1"


async def fire(url: str, *numbers: int) -> None:
    """Fire alerts, one webhook each."""
    async with httpx.AsyncClient(trust_env=False, timeout=PATIENCE) as client:
        for number in numbers:
            alert = {
                "status": "firing",
                "labels": {"alertname": f"A{number}"},
                "annotations": {"noise": noise(700, number)},
                "startsAt": "2026-01-31T12:00:00Z",
                "endsAt": "0001-01-01T00:00:00Z",
            }
            body = {"version": "4", "status": "firing", "alerts": [alert]}
            reply = await client.post(f"{url}/streaming/alerts", json=body)
            assert reply.status_code == 200, reply.text


def fired(messages: list[Message]) -> list[str]:
    """The names of alerts as they came, one at a time."""
    return [
        message["data"]["alert"]["labels"]["alertname"]
        for message in messages
        if message["data"].get("event") == "firing"
    ]


# npm


class Program:
    """A Node program that prints lines of JSON."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def _line(self) -> dict[str, Any]:
        """The next line."""
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        assert line, "the program has ended"
        said: dict[str, Any] = json.loads(line)
        return said

    async def until(self, condition: Callable[[dict[str, Any]], object]) -> list[dict[str, Any]]:
        """Lines up to and with the first for which the condition holds."""
        async with asyncio.timeout(PATIENCE):
            lines = [await self._line()]
            while not condition(lines[-1]):
                lines.append(await self._line())
        return lines


Run = Callable[..., Awaitable[Program]]


@pytest.fixture
async def run_node() -> AsyncIterator[Run]:
    """``await run_node("eventsource.cjs", url)``; skipped where there is no Node."""
    try:
        program, environ = await asyncio.to_thread(node)
    except Missing as missing:
        pytest.skip(str(missing))
    processes = []

    async def run(script: str, *arguments: str) -> Program:
        process = await asyncio.create_subprocess_exec(
            program,
            HERE / "node" / script,
            *arguments,
            env=environ,
            stdout=asyncio.subprocess.PIPE,
            limit=2**20,
        )
        processes.append(process)
        return Program(process)

    yield run
    for process in processes:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def events_in(lines: list[dict[str, Any]]) -> list[Message]:
    """The messages among what npm's eventsource said, each checked."""
    found = []
    for line in lines:
        if "data" in line:
            message = valid(line["data"])
            assert line["type"] == message["message_type"]
            assert line["id"] == message.get("cursor", line["id"])
            found.append(message)
    return found


async def test_the_eventsource_of_npm_reads_a_cut_answer_to_its_end_and_stops(
    run_node: Run, server: StreamingService, upstream: FakeUpstream, answered: str
) -> None:
    async with cutter(server.url, budgets(1)) as relay:
        program = await run_node("eventsource.cjs", f"{relay.url}/streaming/sse/chat/{answered}")
        lines = await program.until(lambda line: line.get("state") == "closed")
        assert relay.cuts == CUTS
    assert lines[-1]["status"] == 204
    assert_whole(events_in(lines), upstream)


async def test_the_eventsource_of_npm_misses_no_alert_that_fired_while_it_was_away(
    run_node: Run, server: StreamingService
) -> None:
    async with cutter(server.url, budgets(2)) as relay:
        program = await run_node("eventsource.cjs", f"{relay.url}/streaming/sse/alerts")
        lines = await program.until(lambda line: "data" in line)
        await fire(server.url, *range(40))
        lines += await program.until(lambda line: '"A39"' in line.get("data", ""))
        assert relay.cuts == CUTS
    assert fired(events_in(lines)) == [f"A{number}" for number in range(40)]


async def test_ws_of_npm_comes_back_to_a_cut_answer(
    run_node: Run, server: StreamingService, upstream: FakeUpstream
) -> None:
    async with cutter(server.url, budgets(3)) as relay:
        url = relay.url.replace("http", "ws", 1) + "/streaming/websocket"
        program = await run_node("websocket.cjs", url, "r-1")
        *lines, last = await program.until(lambda line: "closed" in line)
        assert relay.cuts == CUTS
    assert last == {"closed": 1000}
    assert_whole([valid(json.dumps(line)) for line in lines], upstream)


# Chromium


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    """A Chromium of its own for each test."""
    arguments = [
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        # the empty page below came from no address, and so would count as a foreign one
        "--disable-features=LocalNetworkAccessChecks,LocalNetworkAccessChecksWebSockets",
    ]
    async with async_playwright() as playwright:
        launched = await playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield launched
        await launched.close()


async def empty_page(browser: Browser, origin: str) -> Page:
    """An empty page of this origin, which no server was asked for."""
    page = await browser.new_page()
    page.set_default_timeout(PATIENCE * 1000)
    await page.route(
        f"{origin}/empty",
        lambda route: route.fulfill(content_type="text/html", body="<link rel=icon href=data:,>"),
    )
    await page.goto(f"{origin}/empty")
    return page


_EVENT_SOURCE: Final = """(path) => {
  window.seen = [];
  window.source = new EventSource(path);
  for (const type of ["chat_completion", "metrics_update", "alert", "status_update"])
    source.addEventListener(type, (event) => seen.push(event.data));
}"""
_WEBSOCKET: Final = """async (url) => {
  const seen = [], extensions = new Set();
  for (let ended = false; !ended; )
    await new Promise((closed) => {
      const socket = new WebSocket(url);
      socket.onopen = () => {
        extensions.add(socket.extensions.split(";")[0]);
        const last = seen.length && JSON.parse(seen.at(-1)).sequence_id;
        const what = last
          ? { action: "resume", after: last }
          : { model: "fake", messages: [{ role: "user", content: "Hello" }] };
        socket.send(
          JSON.stringify({ message_type: "chat_completion", request_id: "r-1", ...what })
        );
      };
      socket.onmessage = (event) => {
        seen.push(event.data);
        ended = event.data.includes("chat.completion.end");
        if (ended) socket.close();
      };
      socket.onclose = closed;
    });
  return { seen, extensions: [...extensions] };
}"""


async def seen_in(page: Page) -> list[Message]:
    """What the page's EventSource has delivered."""
    return [valid(text) for text in await page.evaluate("seen")]


@needs_chromium
async def test_the_eventsource_of_chromium_reads_a_cut_answer_to_its_end_and_stops(
    browser: Browser, server: StreamingService, upstream: FakeUpstream, answered: str
) -> None:
    async with cutter(server.url, budgets(4)) as relay:
        page = await empty_page(browser, relay.url)
        await page.evaluate(_EVENT_SOURCE, f"/streaming/sse/chat/{answered}")
        await page.wait_for_function("source.readyState === EventSource.CLOSED")
        assert relay.cuts >= CUTS - SPARE
        assert_whole(await seen_in(page), upstream)


@needs_chromium
async def test_the_websocket_of_chromium_comes_back_to_a_cut_answer(
    browser: Browser, server: StreamingService, upstream: FakeUpstream
) -> None:
    async with cutter(server.url, budgets(5)) as relay:
        page = await empty_page(browser, relay.url)
        async with asyncio.timeout(PATIENCE):
            found = await page.evaluate(_WEBSOCKET, "/streaming/websocket/chat")
        assert relay.cuts >= CUTS - SPARE
    assert found["extensions"] == ["permessage-deflate"]
    assert_whole([valid(text) for text in found["seen"]], upstream)


@needs_chromium
async def test_the_eventsource_of_chromium_misses_no_alert_that_fired_while_it_was_away(
    browser: Browser, server: StreamingService
) -> None:
    async with cutter(server.url, budgets(6)) as relay:
        page = await empty_page(browser, relay.url)
        await page.evaluate(_EVENT_SOURCE, "/streaming/sse/alerts")
        await page.wait_for_function("seen.length > 0")
        await fire(server.url, *range(40))
        await page.wait_for_function("seen.at(-1).includes('\"A39\"')")
        assert relay.cuts >= CUTS - SPARE
        assert fired(await seen_in(page)) == [f"A{number}" for number in range(40)]


@needs_chromium
async def test_the_eventsource_of_chromium_sees_the_gap_when_the_server_was_restarted(
    browser: Browser, server: StreamingService, start_server: StartServer
) -> None:
    port = int(server.url.rpartition(":")[2])
    page = await empty_page(browser, server.url)
    await page.evaluate(_EVENT_SOURCE, "/streaming/sse/alerts")
    await page.wait_for_function("seen.length > 0")
    await fire(server.url, 1)
    await page.wait_for_function("seen.at(-1).includes('\"A1\"')")
    await server.stop()
    again = await start_server(port=port, poll_interval=3_600)
    await page.wait_for_function("seen.some((text) => text.includes('\"gap\"'))")
    await fire(again.url, 2)
    await page.wait_for_function("seen.at(-1).includes('\"A2\"')")
    after = await seen_in(page)
    at = next(n for n, message in enumerate(after) if message["data"].get("event") == "gap")
    assert after[at]["data"]["reason"] == "epoch"
    assert after[at + 1]["data"] == {"event": "snapshot", "alerts": []}
    assert fired(after) == ["A1", "A2"]


# Python


async def test_the_reconnecting_loop_of_websockets_comes_back_to_a_cut_answer(
    server: StreamingService, upstream: FakeUpstream
) -> None:
    seen: list[Message] = []
    async with cutter(server.url, budgets(7)) as relay, asyncio.timeout(PATIENCE):
        url = relay.url.replace("http", "ws", 1) + "/streaming/websocket/chat"
        async for connection in websockets.connect(url, max_size=None):
            command: dict[str, object] = {"message_type": "chat_completion", "request_id": "r-1"}
            if seen:
                command |= {"action": "resume", "after": seen[-1]["sequence_id"]}
            with suppress(websockets.ConnectionClosed):
                await connection.send(json.dumps(question() | command))
                async for text in connection:
                    seen.append(valid(text))
                    if is_end(seen[-1]):
                        break
            if seen and is_end(seen[-1]):
                await connection.close()
                break
        assert relay.cuts == CUTS
    assert_whole(seen, upstream)


async def test_httpx_sse_with_last_event_id_misses_no_alert_that_fired_while_it_was_away(
    server: StreamingService,
) -> None:
    seen: list[Message] = []
    async with cutter(server.url, budgets(8)) as relay, asyncio.timeout(PATIENCE):
        async with watching(relay, seen) as stream:
            seen.append(await stream())
        await fire(server.url, *range(40))
        while fired(seen)[-1:] != ["A39"]:
            with suppress(httpx.TransportError, StopAsyncIteration):
                async with watching(relay, seen) as stream:
                    while fired(seen)[-1:] != ["A39"]:
                        seen.append(await stream())
        assert relay.cuts >= CUTS - 1  # the first connection was left before it was cut
    assert fired(seen) == [f"A{number}" for number in range(40)]


@asynccontextmanager
async def watching(
    relay: Cutter, seen: list[Message]
) -> AsyncIterator[Callable[[], Awaitable[Message]]]:
    """The alerts after the last one that was seen."""
    headers = {"Last-Event-ID": seen[-1]["cursor"]} if seen else {}
    async with events(relay.url, "/streaming/sse/alerts", headers=headers) as stream:
        yield stream.receive
