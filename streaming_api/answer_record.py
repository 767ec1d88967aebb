"""What is known of an answer once it has ended, for log, figures and traces. Never its content."""

from __future__ import annotations

from typing import Protocol

import attrs

from streaming_api.trace_context import TraceContext


class Used(Protocol):
    """What somebody has used, for whoever counts it by key."""

    @property
    def key(self) -> str:
        """The name of the key; "" without keys."""

    @property
    def failed(self) -> bool:
        """Whether it was of no use."""

    @property
    def ended(self) -> float:
        """Wall-clock seconds since the epoch."""

    @property
    def input_tokens(self) -> int | None:
        """As the upstream reports them; None where it does not."""

    @property
    def output_tokens(self) -> int:
        """Reported, or estimated."""


@attrs.frozen
class PassedOnRecord:
    """A request that was passed on as it is, and has ended: see `Used`."""

    key: str
    failed: bool
    ended: float
    input_tokens: int
    output_tokens: int


@attrs.frozen
class AnswerRecord:
    """An answer that has ended.

    Attributes:
        key: the name of the key that it was asked with; "" without keys.
        face: the API it was asked through, such as ``openai`` or ``websocket``.
        asked: the model that was asked for.
        answered: the model that the answer names; the one asked for where it names none.
        outcome: the finish reason, the model's or ours.
        reason: the error's code; "" without one.
        status: the upstream's HTTP status; None where it has sent none.
        ended: wall-clock seconds since the epoch.
        queued: seconds that it waited for an upstream connection.
        first: seconds to the first chunk, the queue included; None where none came.
        seconds: seconds from its beginning to its end.
        longest_gap: seconds of the longest silence between two chunks that are kept.
        resumed: when viewers came back to it, in seconds from its beginning; the first few.
        input_tokens: as the upstream reports them; None where it does not.
        output_tokens: reported, or estimated.
        reported: whether the upstream has counted the tokens.
        trace: its place in a trace, and that of the upstream's call in it.
    """

    request_id: str
    key: str
    face: str
    asked: str
    answered: str
    outcome: str
    reason: str
    status: int | None
    ended: float
    queued: float
    first: float | None
    seconds: float
    longest_gap: float
    resumed: tuple[float, ...]
    chunks: int
    repaired: int
    input_tokens: int | None
    output_tokens: int
    reported: bool
    trace: TraceContext
    call: TraceContext

    @property
    def failed(self) -> bool:
        """Whether the model did not come to its own end."""
        return self.outcome in {"error", "incomplete"}

    @property
    def per_token(self) -> float | None:
        """Seconds from one token to the next, on average; None below two."""
        if self.first is None or self.output_tokens < 2:
            return None
        return (self.seconds - self.first) / (self.output_tokens - 1)

    def attributes(self) -> dict[str, object]:
        """Return its figures by OpenTelemetry's conventional names, ours under ``streaming.``."""
        fields: dict[str, object] = {
            "streaming.request_id": self.request_id,
            "streaming.key": self.key or None,
            "streaming.face": self.face,
            "gen_ai.operation.name": "chat",
            "gen_ai.request.model": self.asked or None,
            "gen_ai.response.model": self.answered or None,
            "gen_ai.response.finish_reasons": [self.outcome],
            "error.type": self.reason or None,
            "http.response.status_code": self.status,
            "streaming.queue_seconds": round(self.queued, 6),
            "streaming.time_to_first_token_seconds": self.first and round(self.first, 6),
            "streaming.duration_seconds": round(self.seconds, 6),
            "gen_ai.usage.input_tokens": self.input_tokens,
            "gen_ai.usage.output_tokens": self.output_tokens,
            "streaming.usage_source": "reported" if self.reported else "estimated",
            "streaming.chunks": self.chunks,
            "streaming.resumed": len(self.resumed) or None,
        }
        return {name: value for name, value in fields.items() if value is not None}
