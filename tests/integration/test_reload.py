"""SIGHUP: what can change while it runs does, what cannot is named, and nothing dies."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.clients import UNIT, bearer, events, eventually, http, key, question, websocket
from tests.fakes.upstream import FakeUpstream
from tests.workers import Service, serving


class Configured:
    """A file that the service reads, and how to change it."""

    def __init__(self, file: Path, **sections: dict[str, Any]) -> None:
        self.file = file
        self.sections = sections
        self.write()

    def write(self, **sections: dict[str, Any]) -> None:
        """Replace sections of the file."""
        self.sections |= sections
        self.file.write_text(yaml.safe_dump(self.sections))

    async def reload(self, service: Service, says: str, times: int = 1) -> None:
        """Have it read, and wait for what the log says about it."""
        service.signal(signal.SIGHUP)
        await service.logged(says, times)


@pytest.mark.parametrize("workers", [1, 2])
async def test_keys_change_while_it_runs(tmp_path: Path, workers: int) -> None:
    conf = Configured(
        tmp_path / "c.yaml",
        service={"workers": workers},
        security={"api_keys": [key("old", "watch"), key("stays", "watch")]},
    )
    async with serving("--config", str(conf.file)) as service:
        async with (
            websocket(service.url, additional_headers=bearer("old")) as old,
            websocket(service.url, additional_headers=bearer("stays")) as stays,
        ):
            for socket in (old, stays):
                await socket.send(message_type="status_update")
                await socket.receive()
            conf.write(security={"api_keys": [key("new", "watch"), key("stays", "watch")]})
            await conf.reload(service, r"in effect: security\.api_keys$", workers)
            assert await old.closed() == 1008
            assert old.connection.close_reason == "this key is no longer valid here"
            await stays.send(message_type="status_update", action="unsubscribe")
            await stays.receive()
        async with http(service.url) as client:
            for name, status in (("old", 401), ("new", 200), ("stays", 200)):
                for _ in range(4):  # whichever worker takes it
                    reply = await client.get("/streaming/status", headers=bearer(name))
                    assert reply.status_code == status


async def test_an_event_stream_of_a_key_that_is_gone_ends(tmp_path: Path) -> None:
    conf = Configured(tmp_path / "c.yaml", security={"api_keys": [key("old", "watch")]})
    async with (
        serving("--config", str(conf.file)) as service,
        events(service.url, "/streaming/sse/status", headers=bearer("old")) as stream,
    ):
        await stream.receive()
        conf.write(security={"api_keys": [key("old", "watch", "admin")]})  # other scopes count
        await conf.reload(service, "in effect: security.api_keys")
        await stream.rest()


async def test_other_limits_of_a_key_hold_on_its_open_connections(
    tmp_path: Path, upstream: FakeUpstream
) -> None:
    conf = Configured(
        tmp_path / "c.yaml",
        monitoring={"api_gateway_endpoint": upstream.url},
        security={"api_keys": [key("page", "chat") | {"models": ["one"]}]},
    )
    async with (
        serving("--config", str(conf.file)) as service,
        websocket(service.url, additional_headers=bearer("page")) as socket,
    ):
        await socket.start("r-1", model="other")
        assert (await socket.receive())["data"]["error"]["code"] == "model_not_allowed"
        conf.write(security={"api_keys": [key("page", "chat") | {"models": ["one", "other"]}]})
        await conf.reload(service, "in effect: security.api_keys")
        await socket.start("r-2", model="other")
        await socket.answer()


async def test_limits_endpoints_and_the_log_level_change(
    tmp_path: Path, upstream: FakeUpstream
) -> None:
    async with FakeUpstream() as second:
        conf = Configured(
            tmp_path / "c.yaml",
            monitoring={"api_gateway_endpoint": upstream.url},
            performance={"log_level": "WARNING"},
        )
        async with (
            serving("--config", str(conf.file)) as service,
            http(service.url, timeout=4 * UNIT) as client,
        ):
            assert (await client.post("/v1/chat/completions", json=question())).is_success
            conf.write(
                monitoring={"api_gateway_endpoint": second.url},
                websocket={"max_connections": 7},
                performance={"log_level": "INFO"},
            )
            await conf.reload(service, "in effect: monitoring.api_gateway_endpoint, performance")
            assert (await client.post("/v1/chat/completions", json=question())).is_success
            limits = (await client.get("/streaming/status")).json()["limits"]
            assert limits["max_connections"] == 7
            await service.logged("answer .* ended: stop")
            assert not any("answer" in line for line in service.log[:2])
    assert (len(upstream.generations), len(second.generations)) == (1, 1)


async def test_sources_change(tmp_path: Path) -> None:
    async with FakeUpstream() as exposition:
        conf = Configured(tmp_path / "c.yaml", monitoring={"poll_interval": 0.1})
        async with serving("--config", str(conf.file)) as service, http(service.url) as client:

            async def components() -> dict[str, Any]:
                parts: dict[str, Any] = (await client.get("/streaming/status")).json()["components"]
                return {name: part["state"] for name, part in parts.items()}

            assert "exposition" not in await components()
            url = f"{exposition.url}/metrics"
            conf.write(monitoring={"poll_interval": 0.1, "custom_metrics_endpoint": url})
            await conf.reload(service, "custom_metrics_endpoint")
            async with asyncio.timeout(8 * UNIT):
                while (await components()).get("exposition") != "up":
                    await asyncio.sleep(0.02)
            conf.write(monitoring={"poll_interval": 0.1})
            await conf.reload(service, "custom_metrics_endpoint", 2)
            async with asyncio.timeout(8 * UNIT):
                while (await components())["exposition"] != "absent":
                    await asyncio.sleep(0.02)
            shown = (await client.get("/streaming/snapshot?topics=metrics")).json()["messages"]
            assert not shown[0]["data"]["values"].get("exposition"), "it would stay for ever"


async def test_what_cannot_change_is_named_and_stays(tmp_path: Path) -> None:
    conf = Configured(tmp_path / "c.yaml", websocket={"max_connections": 5})
    async with serving("--config", str(conf.file)) as service, http(service.url) as client:
        conf.write(
            service={"workers": 3},
            performance={"buffer_size": 9_999},
            websocket={"max_connections": 6},
            monitoring={"api_gateway_endpoint": "http://127.0.0.1:9"},
        )
        await conf.reload(service, r"in effect: websocket\.max_connections$")
        named = "monitoring.api_gateway_endpoint, performance.buffer_size, service.workers"
        await service.logged(f"only after a restart: {named}$")
        limits = (await client.get("/streaming/status")).json()["limits"]
        assert (limits["max_connections"], limits["buffer_size"]) == (6, 8192)


async def test_a_broken_file_changes_nothing_and_is_reported_with_its_lines(tmp_path: Path) -> None:
    conf = Configured(tmp_path / "c.yaml", websocket={"max_connections": 5})
    async with serving("--config", str(conf.file)) as service, http(service.url) as client:
        conf.file.write_text("websocket:\n  max_connections: 6\n  max_conections: 7\n")
        await conf.reload(service, r"c\.yaml:3: .*max_conections")
        await service.logged("cannot be used, and nothing is changed")
        conf.file.unlink()
        await conf.reload(service, "cannot be read: No such file")
        limits = (await client.get("/streaming/status")).json()["limits"]
        assert limits["max_connections"] == 5
        conf.write(websocket={"max_connections": 8})
        await conf.reload(service, "in effect: websocket.max_connections")


async def test_a_worker_that_starts_later_has_the_new_configuration(tmp_path: Path) -> None:
    conf = Configured(tmp_path / "c.yaml", websocket={"max_connections": 5})
    async with serving("--config", str(conf.file), STREAMING_WORKERS="2") as service:
        before = set(service.workers)
        conf.write(websocket={"max_connections": 6})
        await conf.reload(service, "in effect: websocket.max_connections", 2)
        service.signal(signal.SIGUSR2)
        await eventually(lambda: not before & set(service.workers), 8 * UNIT)
        async with http(service.url) as client:
            limits = (await client.get("/streaming/status")).json()["limits"]
            assert json.dumps(limits["max_connections"]) == "6"
