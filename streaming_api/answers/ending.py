"""How an answer ended: its outcome, its usage, and what of that clients and the log are given."""

from __future__ import annotations

import logging
from typing import Final

from streaming_api.answer_record import AnswerRecord
from streaming_api.answers.watched_answer import AnswerOutcome
from streaming_api.text import ascii_line
from streaming_api.upstreams.answer import ExchangeResult
from streaming_api.upstreams.reply_errors import UpstreamFault

logger = logging.getLogger(__name__)

NOTHING: Final = ExchangeResult(finish_reason=None, usage=None, error=None, content_chunks=0)
SERVER_STOPPED: Final = UpstreamFault(
    status=None,
    type="server_error",
    code="server_stopping",
    message="The server is stopping; send the request again.",
)
OUR_BUG: Final = UpstreamFault(
    status=None,
    type="server_error",
    code="internal_error",
    message="The server failed to relay this answer; the operator finds the reason in its log.",
)
_NO_REASON: Final = UpstreamFault(
    status=None,
    type="upstream_error",
    code="upstream_incomplete",
    message="The upstream stopped without saying why: the answer may be cut short.",
)
_NO_WORDS: Final = UpstreamFault(
    status=None,
    type="upstream_error",
    code="upstream_error",
    message="The upstream ended the answer with an error, and said nothing more.",
)
_OUR_WORDS: Final = frozenset(
    {
        "upstream_unreachable",
        "upstream_timeout",
        "upstream_disconnected",
        "server_stopping",
        "no_model",
        "no_upstream",
    }
)
"""Codes of faults whose words cannot quote a question or an answer."""
_BY_STATUS: Final = {
    401: "the upstream refuses the key (monitoring.api_gateway_key, or the client's own)",
    403: "the upstream refuses this to the key (monitoring.api_gateway_key, or the client's own)",
    404: "the upstream has no such model, or its address is wrong",
    429: "the upstream's own limit is reached",
}
"""What an upstream's refusals mean, in words that are ours."""
_FAILED: Final = "the upstream failed; its own log says why"


def log_end(record: AnswerRecord, outcome: AnswerOutcome) -> None:
    """Write the one log line that names an answer; what the answer was about is not in it."""
    model = record.answered or "no model"
    if record.asked and record.asked != model:
        model = f"{record.asked} ({model})"
    tokens = f"{record.input_tokens} + {record.output_tokens} tokens"
    if not record.reported:
        tokens = f"about {record.output_tokens} tokens" if record.chunks else "no tokens"
    chunks = "no chunk"
    if record.first is not None:
        chunks = f"{record.chunks} chunks, the first after {record.first:.3f} s"
    logger.log(
        logging.WARNING if record.failed else logging.INFO,
        "answer %s of %s by %s ended: %s after %.3f s, %s; %s, "
        "%.3f s in the queue, upstream status %s, %s, trace %s%s",
        record.request_id, record.key or "no key", model, reason_of(outcome), record.seconds,
        chunks, tokens, record.queued, record.status or "none",
        record.face, record.trace.trace_id, _sentence(outcome.error),
        extra={"trace": record.trace, "attributes": record.attributes()},
    )  # fmt: skip


def figure(usage: dict[str, object] | None, name: str) -> int | None:
    """Return a figure of an upstream's usage, which may hold whatever the upstream has sent."""
    value = None if usage is None else usage.get(name)
    return value if type(value) is int and value >= 0 else None


def outcome_of(ending: ExchangeResult) -> AnswerOutcome:
    """Return an honest outcome: never ``stop`` unless the model said so."""
    error = ending.error
    if error is not None and error.code != "upstream_disconnected":
        return AnswerOutcome("error", error)
    if ending.finish_reason is None:
        return AnswerOutcome("incomplete", error or _NO_REASON, done=ending.done)
    if ending.finish_reason == "error":  # its own word
        error = error or _NO_WORDS
    return AnswerOutcome(ending.finish_reason, error, done=ending.done)


def usage_of(ending: ExchangeResult, chunks: int) -> tuple[dict[str, object] | None, str | None]:
    """Return an answer's usage, and whether it is ``reported`` or ``estimated``."""
    if ending.usage is not None:
        return ending.usage, "reported"
    if not chunks:
        return None, None
    produced = ending.content_chunks or chunks
    return {"completion_tokens": produced}, "estimated"


def reason_of(outcome: AnswerOutcome) -> str:
    """Return how an answer ended, in words for the log: an upstream's may quote the question."""
    reason = ascii_line(outcome.finish_reason)
    error = outcome.error
    if error is None:
        return reason
    status = "" if error.status is None else f", status {error.status}"
    return f"{reason} ({ascii_line(error.code or error.type)}{status})"


def _sentence(error: UpstreamFault | None) -> str:
    """Return what went wrong as the end of the line, where the words are ours alone."""
    if error is None:
        return ""
    if error.code in _OUR_WORDS:
        return f": {ascii_line(error.message).partition('. ')[0].rstrip('.')}"
    status = error.status or 0
    words = _FAILED if status >= 500 else _BY_STATUS.get(status)
    return f": {words}" if words else ""


def error_body(error: UpstreamFault) -> dict[str, object]:
    """Return OpenAI's error object for an upstream's error."""
    body: dict[str, object] = {
        "type": error.type,
        "code": error.code,
        "message": error.message,
        "param": error.param,
    }
    if error.status is not None:
        body["status"] = error.status
    if error.retry_after is not None:
        body["retry_after"] = error.retry_after
    return body
