"""Limits as promises: who comes too late is refused before the upgrade; the others do not notice.

Each limit has its metric and its line in the log, which does not grow with those who knock.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import resource
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import attrs
import httpx
import pytest
import websockets

from streaming_api.config import StreamingConfig
from streaming_api.connections import admission
from streaming_api.connections.endings import REFUSALS
from streaming_api.connections.manager import ConnectionManager
from streaming_api.service import StreamingService
from tests.clients import UNIT, events, eventually, fire, question, websocket
from tests.conftest import StartServer
from tests.fakes.upstream import FakeUpstream, Script
from tests.raw import Raw, raw

WEBSOCKETS, EVENT_STREAMS = 1_000, 500


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    """Clients and server of this process need two for each connection."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * (WEBSOCKETS + EVENT_STREAMS) + 500
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip(f"needs {wanted} file descriptors: ulimit -n")
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def metrics(server: StreamingService) -> dict[str, float]:
    """What Prometheus would read."""
    async with httpx.AsyncClient(trust_env=False, timeout=UNIT) as client:
        text = (await client.get(f"{server.url}/metrics")).text
    lines = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in lines}


def refusals(reason: str) -> str:
    return f'streaming_connections_refused_total{{reason="{reason}"}}'


async def refusal(server: StreamingService, path: str = "/streaming/websocket") -> httpx.Response:
    """How a handshake, or an event stream, is refused."""
    if "websocket" not in path:
        async with httpx.AsyncClient(trust_env=False, timeout=UNIT) as client:
            return await client.get(server.url + path)
    with pytest.raises(websockets.InvalidStatus) as caught:
        async with websocket(server.url, path):
            pass
    reply = caught.value.response
    return httpx.Response(reply.status_code, headers=dict(reply.headers), content=bytes(reply.body))


def is_told(reply: httpx.Response, reason: str) -> None:
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, reason)
    assert int(reply.headers["Retry-After"]) >= 1
    assert reply.json()["error"]["message"]


async def logged(caplog: pytest.LogCaptureFixture, reason: str) -> list[str]:
    """The lines about a refusal, once there is one."""
    text = REFUSALS[reason]
    await eventually(lambda: text in caplog.text)
    return [message for message in caplog.messages if text in message]


class TestConnections:
    @pytest.mark.usefixtures("many_descriptors")
    async def test_connections_1001_and_501_are_refused_and_all_the_others_go_on(
        self, start_server: StartServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        server = await start_server()
        assert server.config.max_connections == WEBSOCKETS
        assert server.config.sse_max_connections == EVENT_STREAMS
        async with crowd(server) as (sockets, streams):
            for _ in range(20):
                is_told(await refusal(server), "connections")
                is_told(await refusal(server, "/streaming/sse/alerts"), "connections")
            open_now = server.connection_manager.open
            assert (open_now["websocket"], open_now["sse"]) == (WEBSOCKETS, EVENT_STREAMS)
            await fire(server.url, "still-here")
            await served(sockets + streams, b"still-here")
            assert (await metrics(server))[refusals("connections")] == 40
            assert len(await logged(caplog, "connections")) <= 4
            await sockets.pop().abandoned()
            await eventually(lambda: open_now["websocket"] == WEBSOCKETS - 1)
            async with websocket(server.url):
                pass  # a slot that is free again is given again
        assert sum(server.context.telemetry.endings.values()) == 2

    async def test_connections_of_one_address_are_limited_and_the_next_address_is_not(
        self, start_server: StartServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        server = await start_server(max_connections_per_ip=2)
        async with websocket(server.url) as one, events(server.url, "/streaming/sse/alerts") as two:
            await two.receive()
            for path in ("/streaming/websocket", "/streaming/sse/alerts"):
                is_told(await refusal(server, path), "per_address")
            async with websocket(server.url, local_addr=("127.0.0.2", 0)) as elsewhere:
                await elsewhere.send(message_type="status_update")
                await elsewhere.receive()
            await one.send(message_type="status_update")
            await one.receive()
            assert (await metrics(server))[refusals("per_address")] == 2
            assert len(await logged(caplog, "per_address")) <= 2

    async def test_connections_are_refused_when_memory_runs_out_and_those_there_go_on(
        self,
        start_server: StartServer,
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        server = await start_server()
        async with websocket(server.url) as socket:
            admission = server.connection_manager.admission
            used = server.context.process.memory_bytes() / 2**30
            monkeypatch.setattr(admission, "config", attrs.evolve(server.config, memory_gb=used))
            is_told(await refusal(server), "memory")
            is_told(await refusal(server, "/streaming/sse/alerts"), "memory")
            await socket.send(message_type="status_update")
            await socket.receive()
            assert (await metrics(server))[refusals("memory")] == 2
            assert len(await logged(caplog, "memory")) <= 2


class Member:
    """One of a crowd: a raw connection that watches the alerts."""

    def __init__(self, tcp: Raw, stack: AsyncExitStack) -> None:
        self.tcp = tcp
        self._stack = stack

    async def abandoned(self) -> None:
        """It leaves without a word."""
        await self._stack.aclose()

    async def sees(self, mark: bytes) -> None:
        await self.tcp.until(mark)


@asynccontextmanager
async def crowd(server: StreamingService) -> AsyncIterator[tuple[list[Member], list[Member]]]:
    """As many connections as there may be, each with its snapshot."""
    async with AsyncExitStack() as stack:

        async def member() -> Member:
            own = await stack.enter_async_context(AsyncExitStack())
            return Member(await own.enter_async_context(raw(server.url)), own)

        sockets, streams = [], []
        for _ in range(WEBSOCKETS):
            sockets.append(one := await member())
            assert (await one.tcp.upgrade()).startswith("HTTP/1.1 101 ")
            await one.tcp.command(message_type="alert")
        for _ in range(EVENT_STREAMS):
            streams.append(one := await member())
            await one.tcp.request("GET", "/streaming/sse/alerts")
        await served(sockets + streams, b"snapshot")
        yield sockets, streams


async def served(members: list[Member], mark: bytes) -> None:
    """Each of them gets it."""
    for member in members:
        await member.sees(mark)


class TestTheQueue:
    async def test_the_queue_refuses_what_could_not_even_wait_and_the_others_are_answered(
        self, start_server: StartServer, upstream: FakeUpstream, caplog: pytest.LogCaptureFixture
    ) -> None:
        gate = upstream.gated(model="gated")
        server = await start_server(api_gateway_endpoint=upstream.url, pool_size=1, max_queued=1)
        async with websocket(server.url) as socket:
            await socket.start("r-1", model="gated")
            await socket.start("r-2", model="gated")
            queued = await socket.receive()
            assert queued["data"] == {"event": "queued", "position": 1}
            async with httpx.AsyncClient(trust_env=False, timeout=UNIT) as client:
                for path in ("/v1/chat/completions", "/streaming/sse/chat"):
                    reply = await client.post(server.url + path, json=question("gated"))
                    is_told(reply, "queue_full")
            assert (await metrics(server))[refusals("queue")] == 2
            assert len(await logged(caplog, "queue")) <= 2
            gate.open()
            upstream.scripts["gated"] = Script()
            ends = [(await socket.answer())[-1] for _ in range(2)]
        assert [end["data"]["finish_reason"] for end in ends] == ["stop", "stop"]


class TestDescriptors:
    async def test_clients_are_refused_before_descriptors_run_out_and_the_log_stays_small(
        self, tmp_path: Path
    ) -> None:
        """A real process with 128 descriptors, and 300 clients who want one each.

        Below the last 64 no upgrade, below the last 32 nobody is listened to; who was there goes
        on, and the spare ones still answer /metrics. Afterwards everything is as before.
        """
        log = tmp_path / "log"
        async with process(log, descriptors=128) as (url, pid):
            async with AsyncExitStack() as stack:
                first = await stack.enter_async_context(websocket(url))
                await first.subscribe("alert")
                statuses = [await knock(url, stack) for _ in range(300)]
                assert statuses.count(101) >= 20
                assert statuses.count(503) + statuses.count(0) == 300 - statuses.count(101)
                assert statuses.count(503) >= 1
                assert "streaming_connections" in await scraped(url)  # there is room for that
                silent = [await stack.enter_async_context(raw(url)) for _ in range(100)]
                await closed_by_server(silent[-1])
                await eventually(lambda: descriptors_of(pid) <= 128 - 24)  # the rest: nobody
                size = log.stat().st_size
                assert size < 20_000, log.read_text()[-2_000:]
            await fire_when_possible(url)
            async with websocket(url) as again:
                await again.send(message_type="alert")
                await again.receive()
            text = await scraped(url)
            assert float(re.findall(r'refused_total\{reason="descriptors"\} (\S+)', text)[0]) >= 100
        assert 1 <= log.read_text().count(REFUSALS["descriptors"]) <= 10
        assert "Traceback" not in log.read_text()
        assert log.stat().st_size < 60_000


async def knock(url: str, stack: AsyncExitStack) -> int:
    """The status of one more handshake; 0 if it was not even heard."""
    tcp = await stack.enter_async_context(raw(url))
    try:
        head = await tcp.upgrade()
    except (ConnectionError, AssertionError):
        return 0
    return int(head.split()[1])


async def closed_by_server(tcp: Raw) -> None:
    with contextlib.suppress(ConnectionError):
        await tcp.rest()


def descriptors_of(pid: int) -> int:
    """How many a process has open."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


async def fire_when_possible(url: str) -> None:
    """Once those who left are gone."""
    async with asyncio.timeout(UNIT):
        while True:
            try:
                await fire(url, "after")
            except (httpx.HTTPError, AssertionError):
                await asyncio.sleep(0.05)
            else:
                return


async def scraped(url: str) -> str:
    async with httpx.AsyncClient(trust_env=False, timeout=UNIT) as client:
        return (await client.get(f"{url}/metrics")).text


@asynccontextmanager
async def process(log: Path, *, descriptors: int) -> AsyncIterator[tuple[str, int]]:
    """The real command in a process of its own, until SIGTERM: its address and its number."""

    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith("STREAMING_")},
        "STREAMING_EMBEDDED_MODEL": "none",
    }
    with log.open("wb") as output:
        server = await asyncio.create_subprocess_exec(
            *["sh", "-c", 'ulimit -n "$0" && exec "$@"', str(descriptors)],
            *[sys.executable, "-m", "streaming_api", "serve", "--port", "0"],
            stdout=output,
            stderr=output,
            env=environment,
        )
    try:
        await eventually(lambda: "serves on" in log.read_text(), 6 * UNIT)
        yield re.findall(r"serves on (\S+)/ ", log.read_text())[0], server.pid
        server.terminate()
        assert await asyncio.wait_for(server.wait(), 10) == 0
    finally:
        if server.returncode is None:
            server.kill()
            await server.wait()


class TestTheLog:
    async def test_the_log_has_one_line_for_each_reason_however_many_come(
        self, start_server: StartServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        assert admission.REFUSALS_LOGGED_SECONDS == 5
        caplog.set_level(logging.INFO)
        server = await start_server(max_connections=1, sse_max_connections=1)
        async with websocket(server.url):
            for _ in range(300):
                is_told(await refusal(server), "connections")
        await eventually(lambda: not server.connection_manager.connections)
        await server.stop()
        lines = [message for message in caplog.messages if message.startswith("refused ")]
        assert 1 <= len(lines) <= 3
        assert all(re.search(r": \d+ connections from 127\.0\.0\.1$", line) for line in lines)
        assert sum(int(re.findall(r"\d+", line)[0]) for line in lines) == 300

    def test_the_log_has_its_line_every_five_seconds_while_they_keep_coming(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        manager = ConnectionManager(StreamingConfig())
        for tenth in range(100):
            manager.telemetry.refused("rate")
            manager.telemetry.refused("host")
            manager.admission.log_refusals(now=1_000 + tenth / 10)
        manager.admission.log_refusals()
        for reason in ("rate", "host"):
            lines = [message for message in caplog.messages if REFUSALS[reason] in message]
            counts = [int(re.findall(r"\d+", line)[0]) for line in lines]
            assert counts == [1, 50, 49]

    async def test_the_metrics_know_every_reason_in_advance(
        self, start_server: StartServer
    ) -> None:
        figures = await metrics(await start_server())
        assert {refusals(reason) for reason in REFUSALS} <= figures.keys()
        assert all(figures[refusals(reason)] == 0 for reason in REFUSALS)
