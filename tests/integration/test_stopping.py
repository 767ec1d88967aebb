"""Stopping: health checks first, then answers, then watchers; what the service manager hears."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import pytest

from tests.clients import UNIT, eventually, http, is_end, websocket
from tests.fakes.upstream import FakeUpstream, Script
from tests.raw import raw
from tests.workers import ROOT, Service, serving

LONG = "3600"


async def test_health_checks_fail_first_while_all_is_served() -> None:
    async with serving(STREAMING_DRAIN_DELAY=LONG) as service, raw(service.url) as kept:
        await kept.request("GET", "/health", None, "Connection: keep-alive")
        assert b" 200 " in await kept.until(b"\r\n")
        await kept.until(b'"}')
        service.signal(signal.SIGTERM)
        await service.logged("stopping: 0 answers run")
        await kept.request("GET", "/health", None, "Connection: keep-alive")
        head = await kept.until(b"\r\n\r\n")
        assert b" 503 " in head.splitlines()[0]
        assert b"connection: close" in head.lower()
        async with http(service.url) as client:
            for path, status in (("/readyz", 503), ("/health", 503), ("/livez", 200)):
                reply = await client.get(path)
                assert (reply.status_code, reply.headers["connection"]) == (status, "close")
            assert (await client.get("/readyz")).json()["reasons"] == ["This server is stopping."]
            served = await client.get("/streaming/status")
            assert (served.status_code, served.json()["state"]) == (200, "draining")
            async with client.stream("GET", "/streaming/sse/status") as events:
                assert (events.status_code, events.headers["connection"]) == (200, "close")
        async with websocket(service.url) as watching:
            await watching.send(message_type="status_update")
            await watching.receive()


async def test_answers_get_their_time_and_watchers_are_notified_after_them(
    upstream: FakeUpstream,
) -> None:
    gate = upstream.gated(Script(tokens=3))
    gate.release()
    variables = {"API_GATEWAY_ENDPOINT": upstream.url, "STREAMING_DRAIN_DELAY": "0"}
    async with serving(**variables, STREAMING_DRAIN_TIMEOUT=LONG) as service:
        async with websocket(service.url) as chat, websocket(service.url) as watching:
            await watching.send(message_type="status_update")
            await watching.receive()
            await chat.start("r-1")
            await chat.receive()
            service.signal(signal.SIGTERM)
            await watching.until(lambda m: "draining" in str(m))
            assert watching.connection.close_code is None
            gate.open()
            end = (await chat.until(is_end))[-1]
            assert end["data"]["finish_reason"] == "stop"
            assert await watching.closed() == 1012
            assert watching.connection.close_reason == "the server restarts; connect again"
        assert await service.ended() == 0


async def test_a_second_signal_ends_it_at_once(upstream: FakeUpstream) -> None:
    upstream.default = Script(endless=True, rate=20)
    variables = {"API_GATEWAY_ENDPOINT": upstream.url, "STREAMING_DRAIN_DELAY": "0"}
    async with (
        serving(**variables, STREAMING_DRAIN_TIMEOUT=LONG) as service,
        websocket(service.url) as chat,
    ):
        await chat.start("r-1")
        await chat.receive()
        service.signal(signal.SIGTERM)
        await service.logged("stopping: 1 answers run")
        service.signal(signal.SIGINT)
        assert await service.ended() == -signal.SIGINT


async def test_a_worker_leaves_the_second_signal_to_its_supervisor(upstream: FakeUpstream) -> None:
    """Ctrl+C reaches workers twice: from the terminal, and from their supervisor."""
    gate = upstream.gated(Script(tokens=3))
    gate.release()
    variables = {"API_GATEWAY_ENDPOINT": upstream.url, "STREAMING_DRAIN_DELAY": "0"}
    async with (
        serving(**variables, STREAMING_WORKERS="2", STREAMING_DRAIN_TIMEOUT=LONG) as service,
        websocket(service.url) as chat,
    ):
        await chat.start("r-1")
        await chat.receive()
        for pid in service.workers:
            os.kill(pid, signal.SIGINT)
        service.signal(signal.SIGINT)
        await service.logged("stopping: 1 answers run")
        gate.open()
        assert (await chat.until(is_end))[-1]["data"]["finish_reason"] == "stop"
        assert await service.ended() == 0


async def test_a_server_is_ready_once_answers_can_be_had(upstream: FakeUpstream) -> None:
    upstream.is_healthy = False
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    async with (
        serving(API_GATEWAY_ENDPOINT=f"http://127.0.0.1:{port}") as service,
        http(service.url) as client,
    ):

        async def ready() -> int:
            return (await client.get("/readyz")).status_code

        assert await ready() == 503
        assert (await client.get("/livez")).status_code == 200
        async with FakeUpstream(port=port), asyncio.timeout(4 * UNIT):
            while await ready() != 200:
                await asyncio.sleep(0.05)
        reply = await client.get("/readyz")
        assert (reply.status_code, reply.json()["reasons"]) == (200, [])


# The service manager


@asynccontextmanager
async def manager() -> AsyncIterator[tuple[str, list[str]]]:
    """A socket as systemd's, and what it has been sent."""
    states: list[str] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening,
    ):
        address = str(Path(folder, "notify"))
        listening.bind(address)
        listening.settimeout(0)
        loop = asyncio.get_running_loop()
        loop.add_reader(
            listening, lambda: states.extend(listening.recv(4096).decode().splitlines())
        )
        try:
            yield address, states
        finally:
            loop.remove_reader(listening)


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_the_service_manager_is_notified(workers: str) -> None:
    async with manager() as (address, states):
        async with serving(
            STREAMING_WORKERS=workers, NOTIFY_SOCKET=address, WATCHDOG_USEC="200000",
            STREAMING_DRAIN_DELAY="2",
        ) as service:  # fmt: skip
            await eventually(lambda: states.count("READY=1") == 1)
            await eventually(lambda: states.count("WATCHDOG=1") >= 3)
            service.signal(signal.SIGTERM)
            await eventually(lambda: "STOPPING=1" in states)
            assert "EXTEND_TIMEOUT_USEC=42000000" in states
            assert await service.ended() == 0
        assert states.count("READY=1") == 1


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_a_socket_unit_hands_its_socket_over(workers: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = await asyncio.create_subprocess_exec(
        "systemd-socket-activate", "--listen", f"127.0.0.1:{port}",
        "--setenv=STREAMING_EMBEDDED_MODEL=none", "--setenv=STREAMING_DRAIN_DELAY=0",
        f"--setenv=STREAMING_WORKERS={workers}",
        sys.executable, "-m", "streaming_api", "serve", "--port", "1",
        cwd=ROOT, env=dict(os.environ),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    service = Service(process)
    reading = asyncio.create_task(service.read())
    try:
        await service.logged("Listening on")
        url = f"http://127.0.0.1:{port}"
        async with http(url, timeout=4 * UNIT) as client:
            assert (await client.get("/health")).status_code == 200
        await eventually(lambda: service.url)
        assert service.url == url
        service.signal(signal.SIGTERM)
        assert await service.ended() == 0
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await reading


async def test_what_a_service_manager_hands_over_and_is_no_tcp_socket_is_said() -> None:
    with tempfile.TemporaryDirectory() as folder:
        address = str(Path(folder, "socket"))
        process = await asyncio.create_subprocess_exec(
            "systemd-socket-activate", "--listen", address,
            sys.executable, "-m", "streaming_api", "serve",
            cwd=ROOT, env=dict(os.environ),
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        await eventually(lambda: Path(address).exists())
        async with asyncio.timeout(4 * UNIT):
            _, writer = await asyncio.open_unix_connection(address)
            output, _ = await process.communicate()
        writer.close()
    assert process.returncode == 1
    assert b"no TCP socket (ListenStream=PORT)" in output


def end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.kill()


async def test_two_units_serve_on_one_socket_and_one_may_leave() -> None:
    """As citadel-llm.socket hands it to each instance that names it."""
    with socket.create_server(("127.0.0.1", 0)) as listening, ExitStack() as processes:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        command = f"exec {sys.executable} -m streaming_api serve 3<&{listening.fileno()}"
        both = []
        for _ in range(2):
            process = await asyncio.create_subprocess_exec(
                "bash", "-c", f"export LISTEN_FDS=1 LISTEN_PID=$$; {command}",
                cwd=ROOT, pass_fds=[listening.fileno()],
                env={**os.environ, "STREAMING_EMBEDDED_MODEL": "none"},
                stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
            )  # fmt: skip
            processes.callback(end, process)
            service = Service(process)
            both.append((service, asyncio.create_task(service.read())))
            await service.logged("serves on")
        first, reading = both[0]
        first.signal(signal.SIGTERM)
        async with http(url, timeout=4 * UNIT) as client:
            async with asyncio.timeout(8 * UNIT):
                while not reading.done():
                    reply = await client.get("/livez", headers={"Connection": "close"})
                    assert reply.status_code == 200
            assert await first.ended() == 0
            assert (await client.get("/livez")).status_code == 200
        second, reading = both[1]
        second.signal(signal.SIGTERM)
        assert await second.ended() == 0
        await reading


async def test_nothing_is_waited_for_where_nothing_runs() -> None:
    async with serving(STREAMING_DRAIN_DELAY="0", STREAMING_DRAIN_TIMEOUT=LONG) as service:
        service.signal(signal.SIGTERM)
        begun = time.monotonic()
        assert await service.ended(6 * UNIT) == 0
        assert time.monotonic() - begun < 6 * UNIT
