"""Workers of the real program: as many as configured, replaced when they die, ended together."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import httpx
import pytest

from streaming_api.serving import private_store
from streaming_api.serving.private_store import PrivateStore
from streaming_api.serving.workers import find_server
from tests.clients import UNIT, eventually, http, websocket
from tests.conftest import StartServer
from tests.workers import ROOT, serving

CUSTOMER = str(ROOT / "tests" / "data" / "streaming-api.yaml")


async def healthy(url: str) -> bool:
    async with http(url) as client:
        return (await client.get("/health")).status_code == 200


async def test_a_worker_that_dies_is_replaced_and_so_is_the_store() -> None:
    async with serving(STREAMING_WORKERS="2") as service:
        workers = service.workers
        assert len(workers) == 2
        assert service.store
        os.kill(workers[0], signal.SIGKILL)
        await eventually(lambda: len(service.workers) == 2 and workers[0] not in service.workers)
        store = service.store
        os.kill(store, signal.SIGKILL)
        await eventually(lambda: service.store not in {0, store}, 2 * UNIT)
        for _ in range(8):  # whichever worker the kernel chooses
            assert await healthy(service.url)


async def test_all_workers_end_together_on_request() -> None:
    async with serving(STREAMING_WORKERS="2") as service:
        processes = [*service.workers, service.store]
        service.signal(signal.SIGTERM)
        assert await service.ended() == 0
        assert not [pid for pid in processes if Path(f"/proc/{pid}").exists()]


async def test_no_worker_outlives_a_supervisor_that_is_killed() -> None:
    async with serving(STREAMING_WORKERS="2") as service:
        processes = [*service.workers, service.store]
        service.signal(signal.SIGKILL)
        await service.ended()

        def gone(pid: int) -> bool:
            try:
                state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
            except FileNotFoundError:
                return True
            return state == "Z"  # whoever adopted it has not looked yet

        await eventually(lambda: all(map(gone, processes)), 4 * UNIT)


async def test_workers_are_replaced_one_after_the_other_on_sigusr2() -> None:
    async with serving(STREAMING_WORKERS="2") as service:
        workers = set(service.workers)
        service.signal(signal.SIGUSR2)
        async with http(service.url) as client:
            while workers & set(service.workers):
                assert (await client.get("/health")).status_code in {200, 503}
        assert await healthy(service.url)


async def test_the_customers_file_runs_two_workers() -> None:
    endpoints = dict.fromkeys(
        ("API_GATEWAY_ENDPOINT", "METRICS_SERVER_ENDPOINT", "CUSTOM_METRICS_ENDPOINT"),
        "http://127.0.0.1:9",
    )
    async with serving("--config", CUSTOMER, "--host", "127.0.0.1", **endpoints) as service:
        assert len(service.workers) == 2
        assert await healthy(service.url)


async def test_a_port_that_is_taken_is_reported_and_nothing_is_left(
    start_server: StartServer,
) -> None:
    taken = await start_server()
    with pytest.raises(AssertionError, match="cannot listen"):
        async with serving("--port", str(taken.port), STREAMING_WORKERS="2"):
            pass


async def test_one_process_says_loudly_that_it_should_be_two(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streaming_api.serving.workers.find_server", lambda: None)
    server = await start_server(workers=2)
    async with http(server.url) as client:
        reply = (await client.get("/streaming/status")).json()
    component = reply["components"]["cluster"]
    assert component["state"] == "absent"
    assert "pip install 'streaming-api[workers]'" in component["reason"]


class TestThePrivateStore:
    def test_the_store_listens_on_a_private_socket_and_leaves_nothing(self) -> None:
        program = find_server()
        assert program is not None
        store = PrivateStore(program, 1)
        store.start()
        socket = store.directory / "store.sock"
        assert socket.stat().st_mode & 0o777 == 0o700
        assert store.directory.stat().st_mode & 0o777 == 0o700
        store.close()
        assert not store.directory.exists()

    def test_a_store_that_does_not_start_is_reported(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(private_store, "_START_SECONDS", 0.1)
        store = PrivateStore("/bin/false", 1)
        with pytest.raises(OSError, match="does not start"):
            store.start()
        store.close()


async def test_a_scrape_of_the_port_has_the_samples_of_every_worker() -> None:
    async with serving(STREAMING_WORKERS="2") as service, http(service.url) as client:
        for _ in range(4):
            text = (await client.get("/metrics")).text
            ups = re.findall(r'^streaming_cluster_up{worker="([^"]+)"}', text, re.MULTILINE)
            assert ups == ["worker-1", "worker-2"]
            assert text.count("# TYPE streaming_connections gauge") == 1
        figures = (await client.get("/streaming/metrics")).json()
        assert sorted(figures["workers"]) == ["worker-1", "worker-2"]
        resident = [
            part["process"]["resident_memory_bytes"] for part in figures["workers"].values()
        ]
        assert figures["process"]["resident_memory_bytes"] == sum(resident)
        async with websocket(service.url), websocket(service.url), websocket(service.url):
            listed = (await client.get("/streaming/connections")).json()
            assert listed["websocket"]["open"] == 3
            assert len(listed["connections"]) == 3
            assert {row["worker"] for row in listed["connections"]} <= {"worker-1", "worker-2"}
        status = (await client.get("/streaming/status")).json()
        assert sorted(status["answers"]["workers"]) == ["worker-1", "worker-2"]
        os.kill(service.workers[0], signal.SIGSTOP)
        try:
            async with http(service.url) as other:
                text = (await other.get("/metrics")).text
        except httpx.TransportError:  # the one that hangs was asked
            text = ""
        os.kill(service.workers[0], signal.SIGCONT)
        assert text == "" or len(set(re.findall(r'worker="([^"]+)"', text))) == 1
