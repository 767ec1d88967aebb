"""Preflight: what ``check`` finds that ``serve`` would stumble over."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from streaming_api import cli
from streaming_api.config import StreamingConfig
from streaming_api.online import unreachable
from streaming_api.preflight import warnings
from tests.fakes.upstream import FakeUpstream


def warnings_of(environ: dict[str, str] | None = None, **settings: object) -> str:
    config = StreamingConfig(**{"port": 0, **settings})  # type: ignore[arg-type]
    return "\n".join(warnings(config, environ or {}))


def test_nothing_is_said_where_all_is_well() -> None:
    assert warnings_of() == ""


def test_a_port_that_is_taken_and_an_address_that_is_not_here_are_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert (
            warnings_of(port=port)
            == f"127.0.0.1:{port} is taken now (by this service, if it runs)."
        )
    assert "192.0.2.1:0 cannot be listened on" in warnings_of(host="192.0.2.1")


def test_a_port_that_this_user_may_not_open_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: StreamingConfig) -> socket.socket:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("streaming_api.preflight.listening_socket", refuse)
    assert "port below 1024" in warnings_of(port=80)


def test_a_log_directory_that_is_missing_is_named(tmp_path: Path) -> None:
    directory = str(tmp_path / "none")
    assert f"The log directory {directory} is not there" in warnings_of(
        {"LOGS_DIRECTORY": directory}
    )
    assert warnings_of({"LOGS_DIRECTORY": str(tmp_path)}) == ""


def test_an_open_server_that_others_reach_is_warned_of() -> None:
    assert "No API keys are configured, and 0.0.0.0 is reached" in warnings_of(host="0.0.0.0")


async def test_a_key_that_the_gateway_refuses(upstream: FakeUpstream) -> None:
    upstream.api_key = "right"

    async def said(key: str) -> list[str]:
        config = StreamingConfig(api_gateway_endpoint=upstream.url, gateway_api_key=key)
        return await asyncio.to_thread(unreachable, config)

    assert await said("right") == []
    (sentence,) = await said("wrong")
    assert sentence.endswith("answers 401: is monitoring.api_gateway_key right?")


def test_endpoints_are_asked_when_that_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    (sentence,) = unreachable(StreamingConfig(metrics_server_endpoint=url))
    where = url.removeprefix("http://")
    said = "monitoring.metrics_server_endpoint does not answer"
    assert sentence == f"{said}: {where}: Connection refused"
    (sentence,) = unreachable(StreamingConfig(cluster_url=f"redis://user:secret@{where}"))
    assert sentence.startswith("cluster.url does not answer: The store cannot be reached")
    assert "secret" not in sentence
    assert unreachable(StreamingConfig()) == []
    monkeypatch.setenv("METRICS_SERVER_ENDPOINT", url)
    monkeypatch.setenv("STREAMING_API_PORT", "0")
    assert cli.main(["check"]) == 0
    assert cli.main(["check", "--online"]) == cli.EXIT_UNREACHABLE
    assert "ERROR: monitoring.metrics_server_endpoint" in capsys.readouterr().out
