"""Every setting of the service, one field each; knows nothing of where values come from."""
# ruff: noqa: FBT003, RUF009 - `setting` is the field specifier; its second argument is the default

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import attrs

from streaming_api.config import validators as checks
from streaming_api.config.base import SECONDS, APIConfigSchema
from streaming_api.config.certificate import CertificateError, load_key_pair
from streaming_api.config.field import setting
from streaming_api.config.problems import Problem
from streaming_api.config.types import ApiKey, IPNetwork, QueryName, QueryText

COUNT = (0, 1_000_000)
AT_LEAST_ONE = (1, 1_000_000)
BYTES = (1, 2**30)
MILLISECONDS = (0, 3_600_000)
SECONDS_OR_NONE = (0, 86_400)
UP_TO_A_WEEK = (0, 7 * 86_400)
LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


RELAY_PATHS: Final = (
    "/v1/embeddings", "/v1/completions", "/v1/messages", "/v1/messages/count_tokens",
    "/v1/audio/*", "/v1/images/*", "/v1/rerank", "/v1/moderations", "/tokenize", "/detokenize",
)  # fmt: skip
"""What an OpenAI-compatible client may ask for besides answers. Files and batches are left out:
under one key of the gateway every client would see everybody's."""


@attrs.frozen(kw_only=True)
class StreamingConfig(APIConfigSchema):
    """The configuration, as the whole program uses it.

    ``StreamingConfig(port=9096, memory_gb=2, max_connections=1000, heartbeat_interval=30)``: every
    field is a keyword with a default; lists may be given where tuples are kept, and mappings where
    `ApiKey` records are.

    Raises:
        ConfigError: A value does not fit; it lists all that do not, at once.
    """

    # service
    name: str = setting(
        "service.name", "streaming-api", "name in logs, health and metrics", check=checks.one_line
    )
    workers: int = setting(
        "service.workers",
        1,
        "processes that share the port and are one service, over a Redis or Valkey",
        between=(1, 1_024),
    )
    drain_delay: float = setting(
        "service.drain_delay",
        1,
        "at a stop: time in which /readyz and /health say 503 while everything is still served",
        unit="s",
        between=SECONDS_OR_NONE,
    )
    drain_timeout: float | None = setting(
        "service.drain_timeout",
        None,
        "at a stop: time that running answers then get to end; unset for 30, in a cluster 120",
        unit="s",
        between=SECONDS_OR_NONE,
    )
    body_size_limit: int = setting(
        "service.body_size_limit",
        32 * 2**20,
        "largest body of an HTTP request, inflated; images are sent in it",
        unit="bytes",
        between=BYTES,
    )
    embedded_model: str = setting(
        "service.embedded_model",
        "auto",
        "model to run without a gateway: auto, none or a .gguf file",
        check=checks.model,
    )

    # websocket
    websocket_enabled: bool = setting(
        "websocket.enabled", True, "the WebSocket routes exist", env="WEBSOCKET_ENABLED"
    )
    max_connections: int = setting(
        "websocket.max_connections",
        1_000,
        "WebSocket connections at once",
        env="WEBSOCKET_MAX_CONNECTIONS",
        between=AT_LEAST_ONE,
    )
    heartbeat_interval: float = setting(
        "websocket.heartbeat_interval",
        30,
        "time between pings to a WebSocket client",
        env="WEBSOCKET_HEARTBEAT_INTERVAL",
        unit="s",
        between=SECONDS,
    )
    message_size_limit: int = setting(
        "websocket.message_size_limit",
        2**20,
        "largest WebSocket message accepted from a client, inflated",
        env="WEBSOCKET_MESSAGE_SIZE_LIMIT",
        unit="bytes",
        between=BYTES,
    )
    websocket_compression: bool = setting(
        "websocket.compression_enabled",
        True,
        "permessage-deflate is offered (performance.compression_enabled too must be true)",
        env="WEBSOCKET_COMPRESSION_ENABLED",
    )

    # sse
    sse_enabled: bool = setting("sse.enabled", True, "the SSE routes exist", env="SSE_ENABLED")
    sse_max_connections: int = setting(
        "sse.max_connections",
        500,
        "SSE connections at once",
        env="SSE_MAX_CONNECTIONS",
        between=AT_LEAST_ONE,
    )
    sse_retry_timeout: int = setting(
        "sse.retry_timeout",
        5_000,
        "delay before an SSE client reconnects, sent as retry:",
        env="SSE_RETRY_TIMEOUT",
        unit="ms",
        between=MILLISECONDS,
    )
    sse_keep_alive_interval: float = setting(
        "sse.keep_alive_interval",
        30,
        "silence on an SSE stream after which a comment is sent",
        env="SSE_KEEP_ALIVE_INTERVAL",
        unit="s",
        between=SECONDS,
    )
    sse_compression: bool = setting(
        "sse.compression_enabled",
        True,
        "SSE is compressed for clients that ask (performance.compression_enabled too must be true)",
        env="SSE_COMPRESSION_ENABLED",
    )

    # streaming
    streaming_chat_enabled: bool = setting(
        "streaming.chat_enabled", True, "chat answers", env="STREAMING_CHAT_ENABLED"
    )
    streaming_metrics_enabled: bool = setting(
        "streaming.metrics_enabled", True, "the metrics topic", env="STREAMING_METRICS_ENABLED"
    )
    streaming_alerts_enabled: bool = setting(
        "streaming.alerts_enabled", True, "the alerts topic", env="STREAMING_ALERTS_ENABLED"
    )
    streaming_status_enabled: bool = setting(
        "streaming.status_enabled", True, "the status topic", env="STREAMING_STATUS_ENABLED"
    )

    # performance
    buffer_size: int = setting(
        "performance.buffer_size",
        8_192,
        "unsent bytes on a connection above which its viewer is lagging",
        unit="bytes",
        between=BYTES,
    )
    flush_interval: int = setting(
        "performance.flush_interval",
        100,
        "length of the flush window; 0 sends each message by itself",
        unit="ms",
        between=(0, 60_000),
    )
    batch_size: int = setting(
        "performance.batch_size",
        10,
        "writes per stream and flush window",
        between=AT_LEAST_ONE,
    )
    compression_enabled: bool = setting(
        "performance.compression_enabled",
        True,
        "compression in general; false turns it off for WebSocket and SSE",
    )
    log_level: str = setting(
        "performance.log_level", "INFO", "least severe messages to log", choices=LOG_LEVELS
    )

    memory_budget_mb: int = setting(
        "performance.memory_budget_mb",
        0,
        "memory for all that is held for clients, a quarter of it for one; 0: a quarter of "
        "memory_limit_gb",
        unit="MiB",
        between=(0, 2**26),
    )

    log_format: str = setting(
        "performance.log_format",
        "auto",
        "lines for people, or JSON for programs; auto: JSON unless a terminal or the journal",
        choices=("auto", "text", "json"),
    )

    # connection_management
    pool_size: int = setting(
        "connection_management.pool_size",
        100,
        "connections to the upstream; further answers wait for their turn",
        env="CONNECTION_POOL_SIZE",
        between=AT_LEAST_ONE,
    )
    max_queued: int = setting(
        "connection_management.max_queued",
        100,
        "answers that may wait for an upstream connection; more are refused",
        between=COUNT,
    )
    cleanup_interval: float = setting(
        "connection_management.cleanup_interval",
        60,
        "time between sweeps for idle connections",
        env="CONNECTION_CLEANUP_INTERVAL",
        unit="s",
        between=SECONDS,
    )
    max_idle_time: float = setting(
        "connection_management.max_idle_time",
        1_800,
        "time without a message either way after which a connection is closed",
        env="CONNECTION_MAX_IDLE_TIME",
        unit="s",
        between=(0.01, 7 * 86_400),
    )
    stall_timeout: float = setting(
        "connection_management.stall_timeout",
        30,
        "time without progress after which a lagging viewer is aborted",
        unit="s",
        between=SECONDS,
    )
    resume_grace: float = setting(
        "connection_management.resume_grace",
        30,
        "time an answer goes on after its last viewer has left",
        unit="s",
        between=SECONDS_OR_NONE,
    )
    upstream_keep_alive: float = setting(
        "connection_management.upstream_keep_alive",
        30,
        "time that a connection to the upstream waits for another request; 0 for none",
        unit="s",
        between=SECONDS_OR_NONE,
    )
    max_connections_per_ip: int = setting(
        "connection_management.max_connections_per_ip",
        0,
        "connections at once from one address; 0 for no limit",
        between=COUNT,
    )

    # retention
    chat_retention_bytes: int = setting(
        "retention.chat_retention_bytes",
        4 * 2**20,
        "bytes kept of each answer",
        unit="bytes",
        between=BYTES,
    )
    chat_retention_messages: int = setting(
        "retention.chat_retention_messages",
        10_000,
        "messages kept of each answer",
        between=AT_LEAST_ONE,
    )
    chat_retention_seconds: float = setting(
        "retention.chat_retention_seconds",
        300,
        "time an answer is kept after its end",
        unit="s",
        between=UP_TO_A_WEEK,
    )
    chat_kept_bytes: int = setting(
        "retention.chat_kept_bytes",
        64 * 2**20,
        "memory of all answers that have ended; the oldest go first",
        unit="bytes",
        between=(0, 2**46),
    )
    topic_retention_messages: int = setting(
        "retention.topic_retention_messages",
        1_000,
        "messages kept of the topics",
        between=AT_LEAST_ONE,
    )
    topic_retention_bytes: int = setting(
        "retention.topic_retention_bytes",
        4 * 2**20,
        "bytes kept of the topics",
        unit="bytes",
        between=BYTES,
    )
    topic_retention_seconds: float = setting(
        "retention.topic_retention_seconds",
        3_600,
        "time a message of a topic is kept",
        unit="s",
        between=UP_TO_A_WEEK,
    )

    # monitoring
    api_gateway_endpoint: str | None = setting(
        "monitoring.api_gateway_endpoint",
        None,
        "the OpenAI-compatible gateway; unset for the embedded model",
        env="API_GATEWAY_ENDPOINT",
        check=checks.gateway,
    )
    gateway_api_key: str | None = setting(
        "monitoring.api_gateway_key",
        None,
        "key for the gateway, sent with every request to it",
        env="API_GATEWAY_KEY",
        secret=True,
        check=checks.header_token,
    )
    forward_authorization: bool = setting(
        "monitoring.forward_authorization",
        False,
        "without api_keys, a client's own Authorization goes to the gateway before api_gateway_key",
    )
    relay_paths: tuple[str, ...] = setting(
        "monitoring.relay_paths",
        RELAY_PATHS,
        "paths that are passed on to the gateway as they are; * at the end stands for any rest",
        check=checks.paths,
    )
    forward_headers: tuple[str, ...] = setting(
        "monitoring.forward_headers",
        (
            "baggage",
            "OpenAI-Organization",
            "OpenAI-Project",
            "X-Title",
            "HTTP-Referer",
            "X-Request-Id",
        ),
        "headers of a client that go to the gateway with its question; * at the end: any rest",
        check=checks.header_names,
    )
    return_headers: tuple[str, ...] = setting(
        "monitoring.return_headers",
        (
            "x-ratelimit-*",
            "retry-after-ms",
            "x-should-retry",
            "openai-processing-ms",
            "x-litellm-*",
        ),
        "headers of the gateway that come back with its answer; * at the end: any rest",
        check=checks.header_names,
    )
    stream_usage: str = setting(
        "monitoring.stream_usage",
        "auto",
        "streams are asked for their usage (stream_options); auto: not where that is refused",
        choices=("auto", "always", "never"),
    )
    metrics_server_endpoint: str | None = setting(
        "monitoring.metrics_server_endpoint",
        None,
        "the Prometheus server",
        env="METRICS_SERVER_ENDPOINT",
        check=checks.endpoint,
    )
    custom_metrics_endpoint: str | None = setting(
        "monitoring.custom_metrics_endpoint",
        None,
        "a server whose Prometheus exposition is scraped; unset for the embedded model's",
        env="CUSTOM_METRICS_ENDPOINT",
        check=checks.endpoint,
    )
    alertmanager_endpoint: str | None = setting(
        "monitoring.alertmanager_endpoint",
        None,
        "an Alertmanager to poll beside Prometheus' own alerts",
        env="ALERTMANAGER_ENDPOINT",
        check=checks.endpoint,
    )
    webhook_size_limit: int = setting(
        "monitoring.webhook_size_limit",
        16 * 2**20,
        "largest body of Alertmanager's webhook, inflated; an alert storm is sent in one",
        unit="bytes",
        between=BYTES,
    )
    poll_interval: float = setting(
        "monitoring.poll_interval",
        1.0,
        "time between polls of each source",
        unit="s",
        between=(0.01, 3_600),
    )
    queries: Mapping[QueryName, QueryText] = setting(
        "monitoring.queries",
        {},
        "PromQL by the name its result is shown under; none for the usual set",
    )

    # cluster
    cluster_url: str | None = setting(
        "cluster.url",
        None,
        "the Redis or Valkey of a service of several processes: redis://, rediss:// or unix://",
        env="STREAMING_CLUSTER",
        secret=True,
        check=checks.store_url,
    )
    cluster_prefix: str = setting(
        "cluster.prefix",
        "streaming",
        "what the names of all its keys begin with",
        check=checks.key_prefix,
    )
    cluster_flush_interval: int = setting(
        "cluster.flush_interval",
        100,
        "time after which tokens are in the store at the latest; 25 ms if watched elsewhere",
        unit="ms",
        between=(1, 60_000),
    )
    cluster_lease: float = setting(
        "cluster.lease",
        6,
        "silence of a process after which the others take it for dead",
        unit="s",
        between=(1, 3_600),
    )
    cluster_name: str | None = setting(
        "cluster.name",
        None,
        "what this process is called in figures; its host and process number if unset",
        check=checks.one_line,
    )

    # security
    allowed_origins: tuple[str, ...] = setting(
        "security.allowed_origins",
        (),
        "origins of pages that may connect, beside the server's own",
        check=checks.origins,
    )
    allowed_hosts: tuple[str, ...] = setting(
        "security.allowed_hosts",
        (),
        "names the server answers to, beside addresses, localhost and its own name",
        check=checks.host_names,
    )
    api_keys: tuple[ApiKey, ...] = setting(
        "security.api_keys",
        (),
        "who may come in: name, sha256 of the key, scopes; none for everyone",
        secret=True,
    )
    require_keys: bool = setting("security.require_keys", False, "do not start without api_keys")
    trusted_proxies: tuple[IPNetwork, ...] = setting(
        "security.trusted_proxies",
        (),
        "addresses and networks whose X-Forwarded-For counts",
    )
    tls_certificate: Path | None = setting(
        "security.tls_certificate",
        None,
        "PEM file with the certificate chain; with tls_key, the port speaks TLS",
        check=checks.existing_file,
    )
    tls_key: Path | None = setting(
        "security.tls_key", None, "PEM file with its private key", check=checks.existing_file
    )

    # limits
    connections_per_minute: int = setting(
        "limits.connections_per_minute",
        0,
        "new connections from one address or key; 0 for no limit",
        between=COUNT,
    )
    commands_per_second: int = setting(
        "limits.commands_per_second",
        1_000,
        "commands from one client, twice as many in a burst; 0 for no limit",
        between=COUNT,
    )
    answers_per_key: int = setting(
        "limits.answers_per_key",
        0,
        "answers at once for one key; 0 for no limit",
        between=COUNT,
    )
    pings_per_second: int = setting(
        "limits.pings_per_second",
        20,
        "WebSocket pings from one client; 0 for no limit",
        between=COUNT,
    )

    @property
    def memory_budget(self) -> int:
        """The bytes of ``memory_budget_mb``, or its default."""
        if self.memory_budget_mb:
            return self.memory_budget_mb * 2**20
        return int(self.memory_gb * 2**30) // 4

    @property
    def drain_seconds(self) -> float:
        """Seconds that running answers get to end at a stop: ``drain_timeout``, or its default."""
        if self.drain_timeout is not None:
            return self.drain_timeout
        return 30.0 if self.cluster_url is None else 120.0

    def _conflicts(self) -> Iterator[Problem]:
        if self.require_keys and not self.api_keys:
            yield Problem(
                path="require_keys",
                message="found true, but there are no keys; add one to security.api_keys "
                "(name, sha256, scopes) or set it to false",
                fields=("require_keys", "api_keys"),
            )
        for present, absent in (("tls_certificate", "tls_key"), ("tls_key", "tls_certificate")):
            if getattr(self, present) and not getattr(self, absent):
                yield Problem(
                    path=present,
                    message=f"found without security.{absent}; give both for TLS, or neither",
                    fields=(present, absent),
                )
        if self.tls_certificate and self.tls_key:
            try:
                load_key_pair(self.tls_certificate, self.tls_key)
            except CertificateError as error:
                yield Problem(path=error.setting, message=str(error), fields=(error.setting,))
        for what in ("name", "sha256"):
            values = [getattr(key, what) for key in self.api_keys]
            if len(set(values)) < len(values):
                twice = next(value for value in values if values.count(value) > 1)
                names = [key.name for key in self.api_keys if getattr(key, what) == twice]
                yield Problem(
                    path="api_keys",
                    message=f"found entries with the same {what}, {' and '.join(names[:3])};"
                    " each needs its own",
                    fields=("api_keys",),
                )
