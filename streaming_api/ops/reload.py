"""Reload: a configuration that was read again, applied to the running process as far as it can be.

What is open stays as it is, but for connections of keys that are gone: those end.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

import attrs

from streaming_api.config import SETTINGS, StreamingConfig
from streaming_api.connections.endings import CloseReason

if TYPE_CHECKING:
    from streaming_api.config import ApiKey
    from streaming_api.ops.context import Context

logger = logging.getLogger(__name__)

_SECTIONS: Final = frozenset({"security", "limits", "retention", "connection_management"})
_OTHERS: Final = frozenset(
    {
        "log_level", "drain_delay", "drain_timeout", "api_gateway_endpoint", "gateway_api_key",
        "forward_authorization", "metrics_server_endpoint", "custom_metrics_endpoint",
        "alertmanager_endpoint", "poll_interval", "queries", "webhook_size_limit",
        "max_connections", "sse_max_connections", "message_size_limit", "heartbeat_interval",
        "sse_keep_alive_interval", "sse_retry_timeout", "name",
    }
)  # fmt: skip
_TLS: Final = frozenset({"tls_certificate", "tls_key"})  # other paths; new contents are found
LIVE: Final = _OTHERS | {
    name for name, row in SETTINGS.items() if row.section in _SECTIONS and name not in _TLS
}
"""Settings that take effect while the process runs; the others do at the next start."""


def apply(context: Context, read: StreamingConfig) -> None:
    """Apply what can be changed live, and name in the log what cannot.

    Raises:
        ConfigError: what can be changed does not fit what cannot; nothing is changed.
    """
    before = context.config
    changed = {name for name in SETTINGS if getattr(before, name) != getattr(read, name)}
    waiting = changed - LIVE | _switches(before, read)
    config = attrs.evolve(read, **{name: getattr(before, name) for name in waiting})
    context.config = config
    for part in (
        context.access, context.manager, context.answers, context.upstream, context.topics,
    ):  # fmt: skip
        part.apply(config)
    if context.cluster is not None:
        context.cluster.apply(config)
    logging.getLogger().setLevel(config.log_level)
    _keys_of_connections(context, config)
    _log(changed - waiting, "in effect")
    _log(waiting, "in effect only after a restart")
    if not changed:
        logger.warning("configuration read again: nothing has changed")


def _switches(before: StreamingConfig, read: StreamingConfig) -> set[str]:
    """Return the gateway's setting if it would replace the embedded model, or be replaced by it."""
    name = "api_gateway_endpoint"
    return {name} if (getattr(before, name) is None) != (getattr(read, name) is None) else set()


def _keys_of_connections(context: Context, config: StreamingConfig) -> None:
    """Give connections the limits that their keys have now; end those whose key is gone.

    With another hash or other scopes it is another key. Who is ended may come back, with a key.
    """
    keys = {_identity(key): key for key in config.api_keys}
    if not keys:
        return
    for connection in context.manager.present():
        client = connection.client
        key = None if client.key is None else keys.get(_identity(client.key))
        if key is None:
            connection.close(CloseReason.POLICY)
        elif key != client.key:
            connection.client = attrs.evolve(client, key=key)


def _identity(key: ApiKey) -> tuple[str, str, frozenset[str]]:
    return key.name, key.sha256.lower(), frozenset(key.scopes)


def _log(names: set[str], what: str) -> None:
    if names:
        paths = ", ".join(sorted(SETTINGS[name].path for name in names))
        logger.warning("configuration read again, %s: %s", what, paths)
