"""Faults: connections cut and hung, the server and everybody behind it killed; nothing lost unsaid.

The same scenarios run large, and for long, in `python -m tests.soak`.
"""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from streaming_api.service import StreamingService
from tests.bench.processes import raise_descriptor_limit
from tests.clients import Message, content, eventually, is_end, websocket
from tests.conftest import StartServer
from tests.fakes import prometheus
from tests.fakes.fault_proxy import FaultProxy, Faults
from tests.fakes.prometheus import RealAlertmanager, RealPrometheus
from tests.fakes.upstream import FakeUpstream, Script
from tests.soak import scenarios
from tests.soak.processes import Gateway, Process, Server
from tests.soak.visitors import Count

TOKENS = 60
TEXT = Script(tokens=TOKENS).text()
SLOW = 30.0
"""Seconds that a machine with nothing to spare may take; never waited for when all is well."""


# The proxy


@asynccontextmanager
async def talking(said: bytes) -> AsyncIterator[tuple[str, list[bytes]]]:
    """A server that says something to everybody, and notes what it hears until the end."""
    heard: list[bytes] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(said)
        try:
            heard.append(await reader.read())
        except ConnectionError:
            heard.append(b"reset")
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", heard


async def connect(proxy: FaultProxy) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", int(proxy.url.rpartition(":")[2]))


async def test_a_proxy_without_faults_changes_nothing() -> None:
    said = bytes(range(256)) * 4_000
    async with talking(said) as (url, heard), FaultProxy(url) as proxy:
        reader, writer = await connect(proxy)
        assert await reader.readexactly(len(said)) == said
        writer.write(b"goodbye")
        writer.close()
        await eventually(lambda: heard == [b"goodbye"])
        await eventually(lambda: proxy.open == 0)


@pytest.mark.parametrize(
    "faults", [Faults(slices=100), Faults(bandwidth=1_000_000), Faults(latency=0.05)]
)
async def test_slices_bandwidth_and_latency_delay_bytes_and_change_none(faults: Faults) -> None:
    said = bytes(range(256)) * 200
    clock = asyncio.get_running_loop().time
    async with talking(said) as (url, _), FaultProxy(url, faults, seed=7) as proxy:
        begun = clock()
        reader, writer = await connect(proxy)
        pieces = [await reader.read(2**16)]
        while sum(map(len, pieces)) < len(said):
            pieces.append(await reader.read(2**16))
        took = clock() - begun
        writer.close()
    assert b"".join(pieces) == said
    if faults.slices:
        assert len(pieces) > 10
    if faults.latency:
        assert took >= 0.99 * faults.latency  # timers may be early by a tick
    if faults.bandwidth:
        assert took >= 0.9 * len(said) / faults.bandwidth


async def test_a_cut_comes_after_so_many_bytes_as_a_reset_or_as_an_end() -> None:
    async with talking(b"x" * 1_000) as (url, heard):
        async with FaultProxy(url, Faults(cut_after=100, cut="fin")) as proxy:
            reader, writer = await connect(proxy)
            assert await reader.read() == b"x" * 100
            writer.close()
        async with FaultProxy(url, Faults(cut_after=100, cut="rst")) as proxy:
            reader, writer = await connect(proxy)
            with pytest.raises(ConnectionResetError):
                await reader.readexactly(101)
            assert proxy.cuts == 1
            await eventually(lambda: heard == [b"", b"reset"])


async def test_a_silent_connection_stays_open_and_says_nothing_until_it_is_reset() -> None:
    async with talking(b"x" * 1_000) as (url, heard):
        async with FaultProxy(url, Faults(silent_after=100)) as proxy:
            reader, writer = await connect(proxy)
            assert await reader.readexactly(100) == b"x" * 100
            writer.write(b"is anybody there?")
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(reader.read(1), 0.1)
            assert not heard
            assert proxy.silenced == 1
            assert proxy.reset_all() == 1
            await eventually(lambda: heard == [b"reset"])
        writer.close()


async def test_a_slow_close_keeps_the_end_from_the_other_side() -> None:
    clock = asyncio.get_running_loop().time
    async with talking(b"") as (url, heard), FaultProxy(url, Faults(slow_close=0.2)) as proxy:
        _, writer = await connect(proxy)
        await eventually(lambda: proxy.open)
        writer.close()
        begun = clock()
        await eventually(lambda: heard == [b""])
        assert clock() - begun > 0.1


# Between clients and server


@asynccontextmanager
async def served(folder: Path, *, rate: float = 100) -> AsyncIterator[Server]:
    """The server and a gateway, each a process."""
    raise_descriptor_limit()
    async with (
        Gateway(folder, rate=rate, tokens=TOKENS) as gateway,
        Server(folder, gateway.url) as server,
    ):
        yield server


async def test_after_a_thousand_random_cuts_nothing_is_lost_or_doubled(tmp_path: Path) -> None:
    """Answers and alerts, over WebSocket and event streams, sliced and late besides."""
    async with served(tmp_path) as server:
        cut = await scenarios.cut_and_resume(
            server.url, cuts=1_000, text=TEXT, answers=60, seconds=2 * SLOW
        )
        assert cut.cuts >= 1_000
        assert (cut.lost, cut.doubled, cut.broken, cut.gaps) == (0, 0, [], {})
        assert "ERROR" not in server.log.read_text()


async def test_all_reconnect_at_once_and_lose_nothing(tmp_path: Path) -> None:
    async with served(tmp_path) as server:
        storm = await scenarios.reconnect_all(server.url, 200, 100, seconds=SLOW)
    assert storm.cut == 300
    assert (storm.lost, storm.doubled, storm.gaps) == (0, 0, {})


async def test_connections_that_are_aborted_leave_nothing_behind(tmp_path: Path) -> None:
    async with served(tmp_path) as server:
        await scenarios.connect_and_abort(server.url, 200, seed=0)
        descriptors, tasks = await settled(server), Counter(await server.tasks())
        await scenarios.connect_and_abort(server.url, 1_000, seed=1)
        await eventually(lambda: server.descriptors() == descriptors, SLOW)
        assert Counter(await server.tasks()) == tasks
        assert "ERROR" not in server.log.read_text()


async def settled(server: Process) -> int:
    """Descriptors once they have stayed the same for a second."""
    seen = [server.descriptors()]
    while len(seen) < 10 or len(set(seen[-10:])) > 1:
        await asyncio.sleep(0.1)
        seen.append(server.descriptors())
        assert len(seen) < 10 * SLOW, "connections do not go away"
    return seen[-1]


# The server is killed


async def test_after_kill_9_every_client_learns_what_it_has_lost(tmp_path: Path) -> None:
    """An answer is gone, a topic goes on behind a gap notice: never silence, never a guess."""
    async with served(tmp_path, rate=20) as server:
        for number in range(3):
            killed = await scenarios.kill_under_load(server, number, readers=20, viewers=20)
            assert killed.problems() == []


# Between the server and its upstreams


async def test_a_cut_upstream_is_reported_as_such_and_others_go_on(
    start_server: StartServer, upstream: FakeUpstream
) -> None:
    upstream.default = Script(tokens=TOKENS, rate=200)
    cut = Faults(cut_after=4_000)
    async with FaultProxy(upstream.url, Faults(slices=50, latency=0.005)) as proxy:
        # what a connection suffers is decided when it is accepted: one for each answer
        server = await start_server(api_gateway_endpoint=proxy.url, upstream_keep_alive=0)
        async with websocket(server.url) as socket:
            await socket.start("whole")
            await eventually(lambda: upstream.generations)
            proxy.faults = cut
            await socket.start("cut")
            ends: dict[str, Message] = {}
            texts: dict[str, str] = {"whole": "", "cut": ""}
            while len(ends) < 2:
                message = await socket.receive()
                texts[message["request_id"]] += content([message])
                if is_end(message):
                    ends[message["request_id"]] = message["data"]
    assert ends["whole"]["finish_reason"] == "stop"
    assert texts["whole"] == TEXT
    assert ends["cut"]["finish_reason"] in {"incomplete", "error"}
    assert ends["cut"]["error"]["code"]
    assert TEXT.startswith(texts["cut"])
    assert texts["cut"] != TEXT


Hurt = Callable[[Process], Awaitable[None]]


async def kill(process: Process) -> None:
    await process.kill()


async def hang(process: Process) -> None:
    process.signal(signal.SIGSTOP)


@pytest.mark.parametrize("hurt", [kill, hang])
async def test_a_gateway_that_dies_or_hangs_is_reported_and_its_return_is_seen(
    hurt: Hurt, start_server: StartServer, tmp_path: Path
) -> None:
    async with Gateway(tmp_path, rate=20, tokens=TOKENS) as gateway:
        server = await start_server(api_gateway_endpoint=gateway.url, connection_timeout=1)
        async with websocket(server.url) as socket, undisturbed(server):
            await status(server, "gateway", "up")
            await socket.start("r-1")
            await socket.until(lambda message: message.get("sequence_id", 0) > 3)
            await hurt(gateway)
            end = (await socket.answer())[-1]["data"]
            assert end["finish_reason"] in {"incomplete", "error"}
            assert end["error"]["message"]
            await status(server, "gateway", "down")
            if hurt is kill:
                await gateway.start()
            else:
                gateway.signal(signal.SIGCONT)
            await status(server, "gateway", "up")
            await socket.start("r-2")
            assert content(await socket.answer()) == TEXT


@pytest.mark.parametrize("hurt", ["kill", "hang"])
async def test_a_prometheus_or_alertmanager_that_dies_or_hangs_harms_nothing_else(
    hurt: str,
    start_server: StartServer,
    upstream: FakeUpstream,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with (
        RealAlertmanager(tmp_path / "alertmanager") as alertmanager,
        RealPrometheus(tmp_path / "prometheus") as metrics,
    ):
        server = await start_server(
            api_gateway_endpoint=upstream.url,
            metrics_server_endpoint=metrics.url,
            alertmanager_endpoint=alertmanager.url,
            poll_interval=0.1,
        )
        sources = {"prometheus": metrics, "alertmanager": alertmanager}
        for name in sources:
            await status(server, name, "up")
        for name, source in sources.items():
            async with undisturbed(server), websocket(server.url) as socket:
                process = source._process
                assert process is not None
                if hurt == "kill":
                    process.kill()
                    await process.wait()
                else:
                    process.send_signal(signal.SIGSTOP)
                try:
                    await status(server, name, "down")
                    await socket.start(f"r-{name}")
                    assert (await socket.answer())[-1]["data"]["finish_reason"] == "stop"
                    (other,) = set(sources) - {name}
                    await status(server, other, "up")
                finally:
                    if hurt == "hang":
                        process.send_signal(signal.SIGCONT)
                if hurt == "kill":
                    port = source.port
                    monkeypatch.setattr(prometheus, "free_port", lambda port=port: port)
                    await source.start()
                await status(server, name, "up")


async def status(server: StreamingService, name: str, state: str) -> None:
    """Wait until the status says so; a component that is down says why."""
    async with (
        httpx.AsyncClient(base_url=server.url, trust_env=False) as client,
        asyncio.timeout(SLOW),
    ):
        while True:
            components = (await client.get("/streaming/status")).json()["components"]
            component = components.get(name, {"state": "absent"})
            if component["state"] == state:
                assert state != "down" or component["reason"]
                return
            await asyncio.sleep(0.05)


@asynccontextmanager
async def undisturbed(server: StreamingService) -> AsyncIterator[None]:
    """Watchers who see every alert, once and in order, whatever happens meanwhile."""
    count = Count()
    watching = scenarios.watchers(server.url, 2, 2, count)
    async with (
        scenarios.publishing(server.url, 0.05) as publisher,
        scenarios.running([watcher.stay() for watcher in watching]),
    ):
        yield
        number = publisher.number + 1
        await eventually(lambda: all(watcher.last >= number for watcher in watching), SLOW)
    assert (count.lost, count.doubled, count.gaps) == (0, 0, {})
    assert all(watcher.visits == 1 for watcher in watching)
