"""Wire: the bytes that a client reads for each token of an answer, plain and compressed.

The answer is prose, one word a token: numbers and times, which other works' tokens carry, hardly
compress, and real answers have none.
"""

from __future__ import annotations

import asyncio
import re

import attrs

from tests.bench import clients, prose
from tests.bench.audience import Incomplete
from tests.bench.bench import Bench
from tests.bench.measure import measuring
from tests.bench.peers.base import ChatFace, Peer
from tests.bench.peers.nginx import Nginx
from tests.bench.peers.ours import OPENAI, Ours
from tests.bench.works import relay

WORK = "wire"
PEERS: tuple[type[Peer], ...] = (Nginx, Ours)
PLAIN, COMPRESSED = "plain", "compressed"
TOKENS = 400
CONTENT = re.compile(rb'"content": ?"([^"]*)"')


class Counted:
    """Receives one answer whole, and counts its bytes.

    Attributes:
        size: Bytes read so far, framing included.
        ended: Done when the whole text and the end have come.
    """

    def __init__(self, face: ChatFace) -> None:
        """Expect the answer of `face`."""
        self.size = 0
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._end = face.end
        self._text = b""

    def received(self, client: clients.Client, data: bytes) -> None:
        """Take what a read brought."""
        self.size += len(data)
        for payload in client.split(data):
            self._text += b"".join(CONTENT.findall(payload))
            if self._end in payload and not self.ended.done():
                self._finish()

    def _finish(self) -> None:
        if self._text.decode() == prose.of(TOKENS):
            self.ended.set_result(None)
        else:
            self.ended.set_exception(Incomplete(f"another text: {self._text[:200]!r}"))


async def measure(bench: Bench, peer: Peer, face: ChatFace) -> None:
    """One answer at 50 tokens a second, from its first byte to its last.

    Raises:
        Incomplete: its text is not the one that was sent.
    """
    client = await face.connect()
    answer = Counted(face)
    try:
        with measuring(peer) as meter:
            async with asyncio.timeout(relay.ANSWER_TIMEOUT):
                face.start(client, "prose", TOKENS, answer)
                await answer.ended
    finally:
        await clients.close_all([client])
    case = COMPRESSED if face.compressed else PLAIN
    sample = meter.sample(work=WORK, case=case, face=face.name, units=TOKENS)
    bench.results.add(attrs.evolve(sample, wire=answer.size / TOKENS))


async def run(bench: Bench) -> None:
    """Every face plain; those of ours that compress, compressed, too; all at once."""
    asked = []
    for kind in PEERS:
        peer = await bench.peer(kind)
        if peer is None:
            continue
        for face in peer.chat_faces():
            asked.append((peer, face))
            if kind is Ours and face.name != OPENAI:
                asked.append((peer, attrs.evolve(face, compressed=True)))
    await asyncio.gather(
        *(bench.attempt(f"{WORK}: {face.name}", measure(bench, peer, face)) for peer, face in asked)
    )
