"""Selftest: starts the application on a loopback port, drives real clients, says what they saw.

``get_websocket_performance()`` and its siblings do this when there is no traffic.
"""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Final

import aiohttp
import attrs
import orjson

from streaming_api.config import StreamingConfig
from streaming_api.service import StreamingService
from streaming_api.telemetry.deliveries import IN_TIME

_CLIENTS: Final = 20
_MESSAGES: Final = 50
_SECONDS: Final = 20.0


@attrs.frozen
class Figures:
    """What the clients saw.

    Attributes:
        performance: by kind, percent of the messages that arrived within 100 ms of being made.
        connection_stability: percent of the connections that lived to the end.
    """

    performance: dict[str, float]
    connection_stability: float


def measure(config: StreamingConfig) -> Figures:
    """Measure this configuration on loopback; takes about a second.

    Its endpoints are not contacted: no upstream, no source. May be called with or without a running
    event loop.

    Raises:
        RuntimeError: the clients could not be served within 20 seconds.
    """
    result: list[Figures | BaseException] = []

    def work() -> None:
        try:
            result.append(asyncio.run(asyncio.wait_for(_measure(_alone(config)), _SECONDS)))
        except BaseException as error:  # noqa: BLE001 (carried to the caller's thread)
            result.append(error)

    thread = threading.Thread(target=work, name="selftest")
    thread.start()
    thread.join()
    outcome = result[0]
    if isinstance(outcome, Figures):
        return outcome
    raise RuntimeError(f"The self-test failed: {outcome!r}") from outcome


def _alone(config: StreamingConfig) -> StreamingConfig:
    """Return a configuration of the same limits, on loopback, that contacts nobody."""
    return attrs.evolve(
        config,
        host="127.0.0.1",
        port=0,
        api_gateway_endpoint=None,
        metrics_server_endpoint=None,
        custom_metrics_endpoint=None,
        alertmanager_endpoint=None,
        embedded_model="none",
        api_keys=(),
        require_keys=False,
        tls_certificate=None,
        tls_key=None,
        websocket_enabled=True,
        sse_enabled=True,
        streaming_status_enabled=True,
        max_connections=max(config.max_connections, _CLIENTS),
        sse_max_connections=max(config.sse_max_connections, _CLIENTS),
        max_connections_per_ip=0,
        connections_per_minute=0,
    )


async def _measure(config: StreamingConfig) -> Figures:
    seen: dict[str, list[float]] = {"websocket": [], "sse": []}
    async with (
        StreamingService(config) as service,
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_SECONDS)) as session,
    ):
        clients = [_websocket(session, service.url, seen["websocket"]) for _ in range(_CLIENTS)]
        clients += [_sse(session, service.url, seen["sse"]) for _ in range(_CLIENTS)]
        tasks = [asyncio.create_task(client) for client in clients]
        context = service.context
        channel = context.topics.channel
        while len(channel.viewers()) < 2 * _CLIENTS:
            await asyncio.sleep(0.01)
            if any(task.done() for task in tasks):
                break
        for _ in range(_MESSAGES):
            data = {"event": "changed", "component": "selftest", "sent": time.monotonic()}
            channel.append(channel.streams["status"], (orjson.dumps(data),))
            await asyncio.sleep(0.01)
        ended = await asyncio.gather(*tasks, return_exceptions=True)
    lived = sum(result is None for result in ended)
    due = _CLIENTS * _MESSAGES
    return Figures(
        performance={
            kind: 100 * sum(latency <= IN_TIME for latency in latencies) / due
            for kind, latencies in seen.items()
        },
        connection_stability=100 * lived / (2 * _CLIENTS),
    )


def _note(payload: bytes | str, seen: list[float]) -> bool:
    """Note how long a message took; return whether it was one of the measured ones."""
    sent = orjson.loads(payload)["data"].get("sent")
    if sent is not None:
        seen.append(time.monotonic() - sent)
    return sent is not None


async def _websocket(session: aiohttp.ClientSession, url: str, seen: list[float]) -> None:
    async with session.ws_connect(f"{url}/streaming/websocket") as socket:
        await socket.send_json({"message_type": "status_update"})
        count = 0
        while count < _MESSAGES:
            count += _note(await socket.receive_str(), seen)


async def _sse(session: aiohttp.ClientSession, url: str, seen: list[float]) -> None:
    async with session.get(f"{url}/streaming/sse/status") as response:
        count = 0
        async for line in response.content:
            if line.startswith(b"data: "):
                count += _note(line[6:], seen)
            if count == _MESSAGES:
                return


def run(config: StreamingConfig) -> int:
    """Print the three figures; return the exit status, 0 if each reaches its target."""
    figures = measure(config)
    targets = {
        "WebSocket performance": (figures.performance["websocket"], 95),
        "SSE performance": (figures.performance["sse"], 90),
        "connection stability": (figures.connection_stability, 99),
    }
    for name, (percent, target) in targets.items():
        print(f"{name:22} {percent:6.2f} %  (target: at least {target} %)")
    return 0 if all(percent >= target for percent, target in targets.values()) else 1
