"""The network between processes and store: late replies, cables pulled, doors that stay shut."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from streaming_api.cluster.cluster import Cluster
from streaming_api.cluster.entries import SEAL_ID
from streaming_api.service import StreamingService
from tests.certificates import make_certificate
from tests.clients import UNIT, eventually, http, question, websocket
from tests.conftest import StartServer
from tests.fakes.fault_proxy import FaultProxy, Faults
from tests.fakes.upstream import FakeUpstream, Script
from tests.stores import RealStore, real_store
from tests.two_servers import numbers, rest, watched_elsewhere

LEASE = 2
TOLD_SECONDS = 9.0
SEEN = 4


@pytest.fixture
async def store() -> AsyncIterator[RealStore]:
    async with real_store(port=True) as store:
        yield store


@pytest.fixture
async def proxies(store: RealStore) -> AsyncIterator[tuple[FaultProxy, FaultProxy]]:
    """The way to the store of each of two servers."""
    target = f"http://127.0.0.1:{store.port}"
    async with FaultProxy(target) as first, FaultProxy(target, seed=1) as second:
        yield first, second


@pytest.fixture
async def apart(
    start_server: StartServer, upstream: FakeUpstream, proxies: tuple[FaultProxy, FaultProxy]
) -> tuple[StreamingService, StreamingService]:
    """Two servers, each with its own way to the store."""
    one, other = [
        await start_server(
            api_gateway_endpoint=upstream.url,
            cluster_url=proxy.url.replace("http", "redis"),
            cluster_lease=LEASE,
        )
        for proxy in proxies
    ]
    return one, other


def cluster_of(server: StreamingService) -> Cluster:
    cluster = server.context.cluster
    assert isinstance(cluster, Cluster)
    return cluster


def pull(proxy: FaultProxy) -> None:
    """Nothing passes any more, either way, and nobody is told."""
    proxy.faults = Faults(silent_after=0)
    proxy.silence_all()


def plug(proxy: FaultProxy) -> None:
    """Connections work again; those that hang are reset, as by a router that has restarted."""
    proxy.faults = Faults()
    proxy.reset_all()


async def test_replies_that_come_after_their_command_was_given_up(
    apart: tuple[StreamingService, StreamingService],
    proxies: tuple[FaultProxy, FaultProxy],
    upstream: FakeUpstream,
) -> None:
    """A late reply must not be taken for the next command's: each is later than the time-out."""
    upstream.scripts["paced"] = Script(tokens=100, rate=20)

    async def late() -> None:
        for proxy in proxies:
            proxy.faults = Faults(latency=0.4)  # each way
            proxy.reset_all()
        await eventually(lambda: not any(cluster_of(server).figures.up for server in apart))
        await asyncio.sleep(1)  # the time in which replies come too late
        for proxy in proxies:
            proxy.faults = Faults()  # and the late ones stay open

    await watched_elsewhere(*apart, "paced", late)


async def test_an_owner_that_cannot_reach_the_store(
    apart: tuple[StreamingService, StreamingService],
    proxies: tuple[FaultProxy, FaultProxy],
    upstream: FakeUpstream,
) -> None:
    """Its viewers go on, others are told, and when it returns so are its own."""
    gate = upstream.gated(Script(tokens=100), model="gated")
    one, other = apart
    await asyncio.sleep(LEASE)  # the store must have been the same for a lease
    async with websocket(one.url) as here, websocket(other.url) as there:
        await here.start("p-1", model="gated")
        own = [await here.receive()]  # what says whose role it is
        await there.resume("p-1")
        gate.release(SEEN - 1)
        before = await there.until(lambda message: message["sequence_id"] == SEEN)
        own += await here.until(lambda message: message["sequence_id"] == SEEN)
        assert own == before
        await eventually(lambda: not cluster_of(one).lag)
        pull(proxies[0])
        began = time.monotonic()
        gate.release(5)
        own += await here.until(lambda message: message["sequence_id"] == SEEN + 5)
        end = (await rest(there))[-1]
        assert time.monotonic() - began < TOLD_SECONDS
        assert (end["sequence_id"], end["data"]["error"]["code"]) == (SEEN + 1, "server_lost")
        assert one.context.answers.running, "it goes on here"
        gate.release(1)
        own += await here.until(lambda message: message["sequence_id"] == SEEN + 6)
        plug(proxies[0])
        own += await rest(here)
        assert numbers(own) == list(range(1, len(own) + 1))
        assert own[-1]["data"]["error"]["code"] == "server_lost"
    key = cluster_of(other).store.key("a", "/p-1")
    (newest,) = await cluster_of(other).store.run(("XREVRANGE", key, "+", "-", "COUNT", 1))
    assert newest[0][0] == SEAL_ID, "it has not touched what others had ended"


async def test_a_reader_that_cannot_reach_the_store(
    apart: tuple[StreamingService, StreamingService],
    proxies: tuple[FaultProxy, FaultProxy],
    upstream: FakeUpstream,
) -> None:
    """It ends nothing that is not its own: it has itself not seen the store."""
    gate = upstream.gated(Script(tokens=40), model="gated")

    async def cut_off() -> None:
        pull(proxies[1])
        gate.release(10)
        await asyncio.sleep(2 * LEASE + 0.5)  # longer than it takes to be missed
        plug(proxies[1])

    gate.release(1)
    seen = await watched_elsewhere(*apart, "gated", cut_off, gate.open)
    assert len(seen) == 43
    assert not cluster_of(apart[1]).figures.seals


async def test_a_store_user_without_all_rights_is_reported_with_what_is_missing(
    start_server: StartServer, upstream: FakeUpstream, store: RealStore
) -> None:
    rules = ["on", ">secret", "~streaming:*", "resetchannels", "+@all", "-xadd"]
    await store.client.execute_command("ACL", "SETUSER", "small", *rules)  # type: ignore[no-untyped-call]
    server = await start_server(
        api_gateway_endpoint=upstream.url,
        cluster_url=f"redis://small:secret@127.0.0.1:{store.port}",
    )
    async with http(server.url) as client:
        body = question("ten-tokens", stream=True)
        reply = await client.post("/v1/chat/completions", json=body)
        assert reply.text.endswith("data: [DONE]\n\n"), "answers of its own ids go on"

    def reason() -> str:
        component = server.context.topics.components().get("cluster", {})
        return component.get("reason") or "" if component.get("state") == "down" else ""

    await eventually(lambda: "NOPERM" in reason() or "no permissions" in reason(), 2 * UNIT)


@pytest.fixture
async def encrypted(tmp_path: Path) -> AsyncIterator[tuple[str, Path]]:
    """A store behind TLS: its URL, and the certificate that it can be known by."""
    certificate, key = make_certificate(tmp_path)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = (
        "--tls-port", str(port), "--tls-cert-file", str(certificate), "--tls-key-file", str(key),
        "--tls-auth-clients", "no", "--tls-ca-cert-file", str(certificate),
    )  # fmt: skip
    async with real_store(*options):
        yield f"rediss://127.0.0.1:{port}", certificate


async def test_a_store_behind_tls(
    start_server: StartServer, upstream: FakeUpstream, encrypted: tuple[str, Path]
) -> None:
    url, certificate = encrypted
    upstream.scripts["paced"] = Script(tokens=10, rate=40)
    given = {
        "api_gateway_endpoint": upstream.url,
        "cluster_url": f"{url}?ssl_ca_certs={certificate}",
    }
    one, other = await start_server(**given), await start_server(**given)
    await watched_elsewhere(one, other, "paced", lambda: asyncio.sleep(0))


# redis-py leaves the socket of a handshake that has failed to be closed by its last reference.
@pytest.mark.filterwarnings("ignore:unclosed <ssl.SSLSocket:ResourceWarning")
async def test_a_store_whose_certificate_nobody_vouches_for_is_not_spoken_to(
    start_server: StartServer, upstream: FakeUpstream, encrypted: tuple[str, Path], tmp_path: Path
) -> None:
    url, _ = encrypted
    (tmp_path / "other").mkdir()
    stranger, _ = make_certificate(tmp_path / "other", "two")
    server = await start_server(
        api_gateway_endpoint=upstream.url, cluster_url=f"{url}?ssl_ca_certs={stranger}"
    )
    await eventually(lambda: server.context.topics.states().get("cluster") == "down")
    async with http(server.url) as client:
        chosen = await client.post("/v1/chat/completions", json=question(request_id="x-1"))
        assert (chosen.status_code, chosen.json()["error"]["code"]) == (503, "store_unavailable")
