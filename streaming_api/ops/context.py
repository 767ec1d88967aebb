"""Context: what every handler may need of the application, under one typed key."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
from aiohttp import web

from streaming_api.access.client import Client

if TYPE_CHECKING:
    from streaming_api.access.policy import Policy
    from streaming_api.answers.answers import Answers
    from streaming_api.answers.idempotency import LocalBindings, Retries
    from streaming_api.cluster.cluster import Cluster
    from streaming_api.config import StreamingConfig
    from streaming_api.connections.manager import ConnectionManager
    from streaming_api.ops.peers import Peers
    from streaming_api.ops.readiness import Readiness
    from streaming_api.serving.tls import Certificate
    from streaming_api.telemetry.deliveries import Telemetry
    from streaming_api.telemetry.process import Process
    from streaming_api.topics import Topics
    from streaming_api.upstreams.upstream import Upstream


@attrs.define(eq=False)
class Context:
    """The parts of the application that handlers use.

    Attributes:
        config: the configuration in effect; a reload replaces it.
        bindings: what each Idempotency-Key is bound to.
        retries: starts answers that carry an Idempotency-Key.
        cluster: this process as one of several; None if it is alone.
        peers: the other workers of this machine; None if there are none.
        certificate: the TLS certificate in service; None if the server speaks plain HTTP.
        started: wall-clock seconds since the epoch at start-up, for people.
        began: the same in monotonic seconds, for durations.
    """

    config: StreamingConfig
    manager: ConnectionManager
    answers: Answers
    bindings: LocalBindings
    retries: Retries
    topics: Topics
    cluster: Cluster | None
    peers: Peers | None
    access: Policy
    readiness: Readiness
    upstream: Upstream
    telemetry: Telemetry
    process: Process
    certificate: Certificate | None
    started: float
    began: float

    def messages(self) -> dict[str, int]:
        """Return the messages so far, by topic; ``chat`` counts every chunk."""
        streams = self.topics.channel.streams.values()
        return {"chat": self.relayed()} | {stream.name: stream.total for stream in streams}

    def relayed(self) -> int:
        """Return the number of chunks relayed so far, including those of running answers."""
        return self.telemetry.chunks + sum(answer.chunks for answer in self.answers.running)


CONTEXT = web.AppKey("context", Context)
CLIENT = web.RequestKey("client", Client)
"""Where a request holds the client that sent it."""


def route_of(request: web.Request) -> str:
    """Return the path as the URL table has it, without the ids of this request."""
    resource = request.match_info.route.resource
    return "unknown" if resource is None else resource.canonical


def client_of(request: web.Request) -> Client:
    """Return the client that sent this request, as the guard has stored it."""
    return request[CLIENT]
