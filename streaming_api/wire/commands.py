"""Client commands: from parsed JSON to typed values, every fault reported clearly. Pure."""

from __future__ import annotations

import enum
import os
import re
from collections.abc import Mapping
from typing import Final

import attrs
import orjson

from streaming_api.errors import BadRequest
from streaming_api.trace_context import TraceContext
from streaming_api.wire import json_text
from streaming_api.wire.messages import CHAT, MESSAGE_TYPES, STATUS
from streaming_api.wire.topics import TOPICS, names_of

_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9_.-]{1,128}", re.ASCII)
_OURS: Final = frozenset(
    {
        "message_type",
        "action",
        "model_id",
        "model",
        "stream",
        "request_id",
        "on_disconnect",
        "traceparent",
        "tracestate",
    }
)
_ACTIONS: Final = {
    CHAT: ("start", "cancel", "resume"),
    **{row.message_type: ("subscribe", "unsubscribe") for row in TOPICS},
}


class OnDisconnect(enum.Enum):
    """What happens to an answer when its last viewer leaves."""

    CANCEL = "cancel"
    GRACE = "grace"
    FINISH = "finish"


@attrs.frozen
class ChatRequest:
    """Start an answer.

    Attributes:
        model: the model that was asked for; None leaves it to the upstream.
        parameters: OpenAI's, ``messages`` among them: a JSON object for the upstream, each
            member as the client wrote it.
        stream_options: a streamed answer's, as the client wrote them, without ``include_usage``;
            None where it wrote null, which leaves them out.
        usage_asked: whether the client itself asked for a chunk with the usage.
        chosen: whether the client chose the request_id: it may have been used before.
        headers: the client's headers that go to the upstream.
        trace: the caller's trace, if the command names one.
        digest: by which a retry of the question is recognised; "" where none is expected.
    """

    request_id: str
    model: str | None
    parameters: bytes
    stream: bool = True
    stream_options: bytes | None = json_text.EMPTY
    on_disconnect: OnDisconnect = OnDisconnect.GRACE
    usage_asked: bool = False
    chosen: bool = True
    headers: Mapping[str, str] = attrs.field(factory=dict)
    trace: TraceContext | None = None
    digest: str = ""

    @property
    def usage_added(self) -> bool:
        """Whether ``stream_options`` are ours, and not asked for by the client."""
        return self.stream and self.stream_options is not None and not self.usage_asked

    def body(self, model: str | None, *, ask_usage: bool = True) -> bytes:
        """Return the upstream's request: the parameters, the model's name, the usage of a stream.

        Args:
            model: the name to ask for; None to leave it to the upstream.
            ask_usage: whether a stream is asked for its usage though the client did not ask.
        """
        ours: dict[str, object] = {"stream": self.stream}
        if model is not None:
            ours["model"] = model
        options = self.stream_options
        if self.stream and options is not None:
            if ask_usage or self.usage_asked:
                options = json_text.joined(options, b'{"include_usage":true}')
            if options != json_text.EMPTY:
                ours["stream_options"] = orjson.Fragment(options)
        return json_text.joined(self.parameters, orjson.dumps(ours))


@attrs.frozen
class Cancel:
    """End an answer."""

    request_id: str


@attrs.frozen
class Resume:
    """Watch an answer again, from strictly after a sequence_id."""

    request_id: str
    after: int


@attrs.frozen
class Subscribe:
    """Watch a topic, from a cursor or from now."""

    message_type: str
    topic: str
    cursor: str | None


@attrs.frozen
class Unsubscribe:
    """Watch a topic no longer."""

    message_type: str
    topic: str


Command = ChatRequest | Cancel | Resume | Subscribe | Unsubscribe


def message_type_of(fields: Mapping[str, object]) -> str:
    """Return the message type under which an error about these fields is sent."""
    found = fields.get("message_type")
    return found if isinstance(found, str) and found in MESSAGE_TYPES else STATUS


def parse_command(fields: Mapping[str, object], text: bytes) -> Command:
    """Parse a command of the WebSocket.

    Args:
        fields: what `parse_object` made of the text.
        text: the JSON as the client wrote it.

    Raises:
        BadRequest: the command is wrong; ``param`` names the field at fault.
    """
    message_type = fields.get("message_type")
    if not isinstance(message_type, str) or message_type not in _ACTIONS:
        code = "missing_field" if message_type is None else "unknown_message_type"
        message = f"message_type must be one of {', '.join(MESSAGE_TYPES)}."
        raise BadRequest(message, code, param="message_type")
    actions = _ACTIONS[message_type]
    action = fields.get("action")
    if action is None:  # null means "not set", everywhere
        action = actions[0]
    if action not in actions:
        message = f"action of {message_type} must be one of {', '.join(actions)}."
        raise BadRequest(message, "unknown_action", param="action")
    match action:
        case "start":
            return chat_request(fields, text)
        case "cancel":
            return Cancel(_request_id(fields))
        case "resume":
            return Resume(_request_id(fields), _after(fields))
        case "subscribe":
            cursor = fields.get("cursor")
            if cursor is not None and not isinstance(cursor, str):
                raise BadRequest("cursor must be a string.", "invalid_value", param="cursor")
            return Subscribe(message_type, _topic(message_type, fields), cursor)
        case _:
            return Unsubscribe(message_type, _topic(message_type, fields))


def _topic(message_type: str, fields: Mapping[str, object]) -> str:
    """Return the topic: that of the message type, unless another one of this type is named."""
    known = names_of(message_type)
    topic = fields.get("topic")
    if topic is None:
        return known[0]
    if isinstance(topic, str) and topic in known:
        return topic
    message = f"topic of {message_type} must be one of {', '.join(known)}."
    raise BadRequest(message, "invalid_value", param="topic")


def chat_request(
    fields: Mapping[str, object], text: bytes, *, on_disconnect: OnDisconnect = OnDisconnect.GRACE
) -> ChatRequest:
    """Parse the request for an answer, whichever face it came through.

    Args:
        fields: what `parse_object` made of the text, and what the face adds.
        text: the JSON as the client wrote it.
        on_disconnect: what applies where the client does not say.

    Raises:
        BadRequest: the command is wrong; ``param`` names the field at fault.
    """
    messages = fields.get("messages")
    if messages is None:
        raise BadRequest("messages is missing.", "missing_field", param="messages")
    if (
        not isinstance(messages, list)
        or not messages
        or not all(isinstance(message, dict) for message in messages)
    ):
        message = 'messages must be a list of objects like {"role": "user", "content": "Hello"}.'
        raise BadRequest(message, "invalid_value", param="messages")
    model = _model(fields)
    stream = fields.get("stream")
    if stream is None:  # OpenAI's parameters are nullable: null means "not set"
        stream = True
    if not isinstance(stream, bool):
        raise BadRequest("stream must be true or false.", "invalid_value", param="stream")
    options = fields.get("stream_options") if stream else None
    ours = json_text.EMPTY
    if isinstance(options, dict):
        written = json_text.value_of(text, "stream_options")
        ours = json_text.without(written or json_text.EMPTY, {"include_usage"})
    return ChatRequest(
        request_id=new_request_id()
        if fields.get("request_id") is None
        else check_request_id(fields["request_id"]),
        model=model,
        parameters=json_text.without(text, _OURS | {"stream_options"} if stream else _OURS),
        stream=stream,
        stream_options=None if stream and "stream_options" in fields and options is None else ours,
        on_disconnect=_on_disconnect(fields, on_disconnect),
        usage_asked=isinstance(options, dict) and options.get("include_usage") is True,
        chosen=fields.get("request_id") is not None,
        trace=_trace(fields),
    )


def _trace(fields: Mapping[str, object]) -> TraceContext | None:
    """Return the trace that the command belongs to: many answers share one WebSocket."""
    parent, state = fields.get("traceparent"), fields.get("tracestate")
    for name, value in (("traceparent", parent), ("tracestate", state)):
        if value is not None and not isinstance(value, str):
            raise BadRequest(f"{name} must be a string.", "invalid_value", param=name)
    if not isinstance(parent, str):
        return None
    return TraceContext.parse(parent, state if isinstance(state, str) else "")


def _model(fields: Mapping[str, object]) -> str | None:
    """Return ``model_id``, or OpenAI's ``model``."""
    for name in ("model_id", "model"):
        model = fields.get(name)
        if model is not None and (not isinstance(model, str) or not model):
            raise BadRequest(f"{name} must be the name of a model.", "invalid_value", param=name)
    named = fields.get("model_id") or fields.get("model")
    return named if isinstance(named, str) else None


def _on_disconnect(fields: Mapping[str, object], default: OnDisconnect) -> OnDisconnect:
    wanted = fields.get("on_disconnect")
    try:
        return default if wanted is None else OnDisconnect(wanted)
    except ValueError:
        allowed = ", ".join(choice.value for choice in OnDisconnect)
        message = f"on_disconnect must be one of {allowed}."
        raise BadRequest(message, "invalid_value", param="on_disconnect") from None


def new_request_id() -> str:
    """Return a request_id that nobody has used: 128 random bits."""
    return os.urandom(16).hex()


def check_request_id(value: object) -> str:
    """Check and return a request_id.

    Raises:
        BadRequest: the value is not a request_id.
    """
    if not isinstance(value, str) or not _REQUEST_ID.fullmatch(value):
        message = "request_id must be 1 to 128 of A-Z a-z 0-9 _ . -"
        raise BadRequest(message, "invalid_value", param="request_id")
    return value


def _request_id(fields: Mapping[str, object]) -> str:
    if fields.get("request_id") is None:
        raise BadRequest("request_id is missing.", "missing_field", param="request_id")
    return check_request_id(fields["request_id"])


def _after(fields: Mapping[str, object]) -> int:
    after = fields.get("after")
    if after is None:
        return 0
    if not isinstance(after, int) or isinstance(after, bool) or not 0 <= after < 2**63:
        message = "after must be the last sequence_id seen: a whole number, 0 for from the start."
        raise BadRequest(message, "invalid_value", param="after")
    return after
