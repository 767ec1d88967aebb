"""Endings: why connections end, and why they are refused before they begin."""

from __future__ import annotations

import enum
from typing import Final

KINDS: Final = ("websocket", "sse")


class CloseReason(enum.StrEnum):
    """Why a connection ended; endings that are our fault or a broken link's are in `FAULTS`."""

    CLIENT = "client"
    FINISHED = "finished"
    IDLE = "idle"
    GOING_AWAY = "going_away"
    DRAINED = "drained"
    POLICY = "policy"
    MEMORY = "memory"
    TOO_BIG = "too_big"
    BAD_TEXT = "bad_text"
    PROTOCOL_ERROR = "protocol_error"
    NO_COMMAND = "no_command"
    STALLED = "stalled"
    TOO_SLOW = "too_slow"
    PING_TIMEOUT = "ping_timeout"
    BROKEN = "broken"
    ERROR = "error"


FAULTS: Final = frozenset(
    {
        CloseReason.STALLED,
        CloseReason.TOO_SLOW,
        CloseReason.PING_TIMEOUT,
        CloseReason.BROKEN,
        CloseReason.ERROR,
    }
)


CREDENTIAL: Final = "credential"
"""The refusal of a credential, which the audit log names."""

REFUSALS: Final = {
    "draining": "the server is stopping",
    "connections": "all are taken (websocket.max_connections, sse.max_connections)",
    "per_address": "too many from one address (connection_management.max_connections_per_ip)",
    "memory": "memory is above 90 % of performance.memory_limit_gb, or what is held for clients "
    "above performance.memory_budget_mb, a quarter of it for one",
    "descriptors": "file descriptors run out (ulimit -n, LimitNOFILE)",
    "rate": "too many a minute (limits.connections_per_minute)",
    "bodies": "too many large requests are being sent (service.body_size_limit)",
    "queue": "the queue for the upstream is full (connection_management.max_queued)",
    "commands": "too many commands (limits.commands_per_second)",
    "answers": "too many answers of one key at once (limits.answers_per_key, or its own answers)",
    "tokens": "a key has used its tokens (its tokens_per_minute or tokens_per_day)",
    CREDENTIAL: "a credential",
    "origin": "pages of another origin (security.allowed_origins)",
    "host": "a Host that is not served here (security.allowed_hosts)",
    "bad_http": "what came was no HTTP, or ambiguous",
}
"""Why something is refused before it has begun, with the words of the log for it."""


REASON_OF: Final = {
    "host_not_allowed": "host",
    "origin_not_allowed": "origin",
    "rate": "rate",
    "queue_full": "queue",
    "too_many_bodies": "bodies",
    "too_many_commands": "commands",
    "too_many_answers": "answers",
    "rate_limit_exceeded": "tokens",
    "invalid_http": "bad_http",
}
"""The refusal that an error's code stands for; others are counted where they are found."""
COUNTED_ELSEWHERE: Final = frozenset({"connections", "per_address", "memory", "descriptors"})
"""Those of the others that somebody has caused; their codes are the reasons."""
