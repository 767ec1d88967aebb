"""Responses: what an answer costs as OpenAI's Responses, beside the same as chat completions."""

from __future__ import annotations

import attrs
import orjson

from tests.bench import clients
from tests.bench.bench import Bench
from tests.bench.peers.base import ChatFace, Peer
from tests.bench.peers.ours import OPENAI, Ours
from tests.bench.works import relay

WORK = "responses"
RESPONSES = "streaming-api Responses"
CASES = (("paced", 100), ("flat", 10))
_END = b"event: response.completed"
_DELTA = b"event: response.output_text.delta"


class ResponsesClient(clients.HttpClient):
    """Reads a response's events: of those that repeat the whole text, only that they came."""

    def split(self, data: bytes) -> list[bytes]:
        """The deltas, and the name of the last event."""
        events = [event for payload in super().split(data) for event in payload.split(b"\n\n")]
        return [
            event if event.startswith(_DELTA) else _END
            for event in events
            if event.startswith((_DELTA, _END))
        ]


@attrs.frozen(kw_only=True)
class ResponsesFace(ChatFace):
    """`POST /v1/responses`, streamed."""

    async def connect(self) -> clients.Client:
        """Open a connection that is ready to ask."""
        port = clients.port_of(self.url)
        return await clients.connect(port, lambda: ResponsesClient(clients.Ignore()))


def ask(model: str, tokens: int) -> bytes:
    """A request as the OpenAI client sends it."""
    asked = {"input": "Tell me about streams.", "max_output_tokens": tokens}
    return orjson.dumps({"model": model, "stream": True, **asked})


def faces(peer: Peer) -> list[ChatFace]:
    """Chat completions, and Responses."""
    chat = next(face for face in peer.chat_faces() if face.name == OPENAI)
    url = f"{peer.base}/v1/responses"
    return [chat, ResponsesFace(name=RESPONSES, url=url, websocket=False, end=_END, ask=ask)]


async def run(bench: Bench) -> None:
    """Both, in turn, round after round."""
    for number in bench.rounds(3, seconds=40):
        for model, answers in CASES:
            peer = await bench.peer(Ours)
            if peer is None:
                return
            count = 10 if bench.quick else answers
            tokens = relay.TOKENS.get(model, peer.flat_tokens)
            for face in faces(peer):
                what = f"{WORK}, round {number + 1}: {relay.case(model, count)}, {face.name}"
                await bench.attempt(what, measure(bench, peer, face, model, count, tokens))


async def measure(
    bench: Bench, peer: Peer, face: ChatFace, model: str, answers: int, tokens: int
) -> None:
    """Stream so many answers, as the relay does."""
    await relay.measure(bench, peer, face, model, answers, tokens)
    bench.results.add(attrs.evolve(bench.results.samples.pop(), work=WORK))
