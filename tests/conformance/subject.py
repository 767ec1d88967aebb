"""The real server with a healthy fake upstream, for suites that only know HTTP.

    python -m tests.conformance.subject

Streams of topics have no end of their own, and a suite that reads whole bodies would wait for it:
here the server ends each after a moment, as it does when it drains.
"""

from __future__ import annotations

import asyncio
import json
import signal
import time
from typing import TYPE_CHECKING, Final

import attrs
import uvloop

from streaming_api.config import StreamingConfig
from streaming_api.connections.endings import CloseReason
from streaming_api.service import StreamingService
from tests.fakes.upstream import FakeUpstream

if TYPE_CHECKING:
    from streaming_api.connections.manager import ConnectionManager
    from tests.fakes.wire import Connection, Request

STREAM_SECONDS: Final = 0.05


class _Obliging(FakeUpstream):
    """Answers also when no model is named, as servers with a default model do."""

    def answer(self, connection: Connection, request: Request) -> None:
        if request.body:
            body = {"model": "fake", **request.json()}
            request = attrs.evolve(request, body=json.dumps(body).encode())
        super().answer(connection, request)


async def _end_streams(manager: ConnectionManager) -> None:
    while True:
        await asyncio.sleep(STREAM_SECONDS)
        old = time.monotonic() - STREAM_SECONDS
        for connection in tuple(manager.connections.values()):
            if connection.kind == "sse" and connection.opened < old:
                connection.close(CloseReason.DRAINED)


async def _serve() -> None:
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    async with _Obliging() as upstream:
        upstream.scripts.clear()  # whatever model is asked for, it answers well
        upstream.keeps_records = False
        config = StreamingConfig(
            host="127.0.0.1",
            port=0,
            api_gateway_endpoint=upstream.url,
            commands_per_second=0,
            sse_max_connections=10_000,
        )
        async with StreamingService(config) as service:
            print(f"subject on {service.url}", flush=True)  # noqa: T201 (a command's output)
            ending = asyncio.create_task(_end_streams(service.connection_manager))
            await stopping.wait()
            ending.cancel()


if __name__ == "__main__":
    uvloop.run(_serve())
