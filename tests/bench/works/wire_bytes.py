"""Wire: the bytes that a client reads for each token of an answer, plain and compressed."""

from __future__ import annotations

import asyncio

import attrs

from tests.bench import clients
from tests.bench.bench import Bench
from tests.bench.measure import measuring
from tests.bench.peers.base import ChatFace, Peer
from tests.bench.peers.nginx import Nginx
from tests.bench.peers.ours import OPENAI, Ours
from tests.bench.works import relay

WORK = "wire"
PEERS: tuple[type[Peer], ...] = (Nginx, Ours)
PLAIN, COMPRESSED = "plain", "compressed"
TOKENS = 200


class Counted(relay.Answer):
    """Receives one answer, and counts its bytes.

    Attributes:
        size: Bytes read so far, framing included.
    """

    size = 0

    def received(self, client: clients.Client, data: bytes) -> None:
        """Take what a read brought."""
        self.size += len(data)
        super().received(client, data)


async def measure(bench: Bench, peer: Peer, face: ChatFace) -> None:
    """One answer at 50 tokens a second, from its first byte to its last."""
    client = await face.connect()
    progress = relay.Progress(1)
    answer = Counted(TOKENS, face.end, progress)
    try:
        with measuring(peer) as meter:
            async with asyncio.timeout(relay.ANSWER_TIMEOUT):
                face.start(client, "paced", TOKENS, answer)
                await progress.done
    finally:
        await clients.close_all([client])
    case = COMPRESSED if face.compressed else PLAIN
    sample = meter.sample(work=WORK, case=case, face=face.name, units=TOKENS)
    bench.results.add(attrs.evolve(sample, wire=answer.size / TOKENS))


async def run(bench: Bench) -> None:
    """Every face plain; those of ours that compress, compressed, too."""
    for kind in PEERS:
        peer = await bench.peer(kind)
        if peer is None:
            continue
        for face in peer.chat_faces():
            compressed = [True] if kind is Ours and face.name != OPENAI else []
            for offered in [False, *compressed]:
                asked = attrs.evolve(face, compressed=offered)
                await bench.attempt(f"{WORK}: {face.name}", measure(bench, peer, asked))
