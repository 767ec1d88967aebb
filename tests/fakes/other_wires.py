"""What a gateway answers beside chat completions: Anthropic's messages, embeddings."""

from __future__ import annotations

from tests.fakes.script import Gate, Script, as_json
from tests.fakes.wire import LAST_CHUNK, Connection, Request, chunked, head


def messages(connection: Connection, request: Request, script: Script) -> None:
    """Anthropic's `POST /v1/messages`, whole or streamed."""
    text = script.text()
    message: dict[str, object] = {
        "id": "msg_fake",
        "type": "message",
        "role": "assistant",
        "model": "fake",
        "content": [{"type": "text", "text": text}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": 7, "output_tokens": 10},
    }
    if not request.json().get("stream"):
        connection.reply(200, as_json(message))
        return
    begun = message | {"content": [], "stop_reason": None}
    block = {"type": "text", "text": ""}
    ended = {"stop_reason": "end_turn", "stop_sequence": None}
    events: list[dict[str, object]] = [
        {"type": "message_start", "message": begun},
        {"type": "content_block_start", "index": 0, "content_block": block},
        *(
            {
                "type": "content_block_delta",
                "index": 0,
                "delta": {"type": "text_delta", "text": token},
            }
            for token in script.texts()
        ),
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": ended, "usage": {"output_tokens": 10}},
        {"type": "message_stop"},
    ]
    connection.perform(_play(connection, events, script.gate))


async def _play(connection: Connection, events: list[dict[str, object]], gate: Gate | None) -> None:
    """Write the events, each delta as the gate allows."""
    connection.transport.write(head(200, "text/event-stream", chunks=True))
    for event in events:
        kind = str(event["type"])
        if gate is not None and kind == "content_block_delta":
            await gate.passed()
        connection.transport.write(
            chunked(b"event: %b\ndata: %b\n\n" % (kind.encode(), as_json(event)))
        )
    connection.transport.write(LAST_CHUNK)
    connection.finish()


def embeddings(connection: Connection) -> None:
    """OpenAI's `POST /v1/embeddings`."""
    data = [{"object": "embedding", "index": 0, "embedding": [0.25, 0.5]}]
    usage = {"prompt_tokens": 1, "total_tokens": 1}
    reply = {"object": "list", "model": "fake", "data": data, "usage": usage}
    connection.reply(200, as_json(reply))
