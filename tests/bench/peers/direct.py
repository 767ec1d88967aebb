"""No gateway at all: the emitter itself, asked directly. What remains is the harness' own cost."""

from __future__ import annotations

from collections.abc import Sequence

import orjson

from tests.bench.peers.base import ChatFace, Peer, this_python

END_OF_COMPLETION = b"data: [DONE]"


def ask_openai(model: str, tokens: int) -> bytes:
    """A request as the OpenAI client sends it."""
    messages = [{"role": "user", "content": "Tell me about streams."}]
    return orjson.dumps(
        {"model": model, "messages": messages, "stream": True, "max_tokens": tokens}
    )


class Direct(Peer):
    """The emitter."""

    name = "direct"
    settings = "No server in between: the client asks the upstream itself."

    def command(self) -> Sequence[str]:
        """The emitter's own command."""
        return [this_python(), "-m", "tests.bench.emitter", str(self.port)]

    def chat_faces(self) -> list[ChatFace]:
        """OpenAI's wire format."""
        url = f"{self.base}/v1/chat/completions"
        return [
            ChatFace(name="direct", url=url, websocket=False, end=END_OF_COMPLETION, ask=ask_openai)
        ]
