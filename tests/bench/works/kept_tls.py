"""Kept TLS: the first token of the second answer over a connection to a TLS upstream."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from pathlib import Path

import attrs

from tests.bench.bench import Bench
from tests.bench.measure import measuring
from tests.bench.peers.base import ChatFace
from tests.bench.peers.ours import CONFIG, OPENAI, Ours
from tests.bench.works.first_token import Probe
from tests.certificates import server_tls
from tests.fakes.script import Script
from tests.fakes.upstream import FakeUpstream
from tests.fakes.wire import Connection, Request

WORK = "kept TLS"
FIRST, LATER = "the first answer", "the answers after it"
ANSWERS = 50
TOKEN = "#000001@0000000000000000001#"


class TlsUpstream(FakeUpstream):
    """An upstream that knows over how many connections it was asked for answers.

    Attributes:
        asked_on: The connections, by identity.
    """

    def __init__(self, tls: ssl.SSLContext) -> None:
        """Answer with one token that the probe knows."""
        super().__init__(Script(tokens=(TOKEN,)), tls=tls)
        self.asked_on: set[Connection] = set()

    def answer(self, connection: Connection, request: Request) -> None:
        """Answer one request."""
        if request.path.endswith("/chat/completions"):
            self.asked_on.add(connection)
        super().answer(connection, request)


class OursOverTls(Ours):
    """This server, which trusts the upstream's certificate and asks it for nothing but answers."""

    name = "streaming-api over TLS"
    certificate: Path
    config = "\n".join(line for line in CONFIG.splitlines() if "/metrics" not in line)

    def environment(self) -> Mapping[str, str]:
        """Trust the certificate."""
        return {**super().environment(), "SSL_CERT_FILE": str(self.certificate)}


async def run(bench: Bench) -> None:
    """One answer with a handshake, then others without one; handshakes are counted."""
    folder = bench.folder / "kept-tls"
    folder.mkdir()
    certificate, tls = server_tls(folder)
    async with TlsUpstream(tls) as upstream:
        peer = OursOverTls(bench.folder, upstream.url)
        peer.certificate = certificate
        try:
            await peer.start(bench.cores.server)
            face = next(face for face in peer.chat_faces() if face.name == OPENAI)
            for case, answers in ((FIRST, 1), (LATER, 5 if bench.quick else ANSWERS)):
                await bench.attempt(
                    f"{WORK}: {case}", measure(bench, peer, upstream, face, case, answers)
                )
        except RuntimeError as error:
            bench.fail(str(error))
        finally:
            await peer.stop()


async def measure(
    bench: Bench, peer: Ours, upstream: TlsUpstream, face: ChatFace, case: str, answers: int
) -> None:
    """Ask for so many answers, one after the other, and count the connections opened for them."""
    before = len(upstream.asked_on)
    probe = Probe(face)
    try:
        with measuring(peer) as meter:
            for _ in range(answers):
                await probe.once()
    finally:
        await probe.close()
    sample = meter.sample(
        work=WORK, case=case, face=OPENAI, units=answers, latencies_ns=probe.times
    )
    opened = len(upstream.asked_on) - before
    bench.results.add(attrs.evolve(sample, handshakes=opened))
