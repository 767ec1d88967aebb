"""The server under test: the real application, and one route more to publish through.

``POST /bench/publish`` appends each line of its body to the status topic, as one batch, the way a
source does. Run as ``python -m tests.bench.ours CONFIG``.
"""

from __future__ import annotations

import sys
from pathlib import Path

from aiohttp import web

from streaming_api import app as application
from streaming_api.config import Source, StreamingConfig, load
from streaming_api.ops.context import CONTEXT
from streaming_api.serve import serve

TOPIC = "status"


def make_app(config: StreamingConfig) -> web.Application:
    """The application with the benchmark's route."""
    app = application.make_app(config)
    app.router.add_post("/bench/publish", publish)
    return app


async def publish(request: web.Request) -> web.Response:
    """Append each line of the body, a JSON object, to the topic."""
    line = request.app[CONTEXT].topics.channel
    line.append(line.streams[TOPIC], (await request.read()).splitlines())
    return web.Response(status=204)


if __name__ == "__main__":
    path = Path(sys.argv[1])
    source = Source(load(path, {}).config, lambda: load(path, {}).config)
    sys.exit(serve(source, make_app))
