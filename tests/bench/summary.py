"""The summary: a few ratios out of a run, written into the README by the run itself."""

from __future__ import annotations

import datetime as dt

from tests.bench.measure import Results
from tests.bench.peers.base import ROOT
from tests.bench.peers.ours import PURE
from tests.bench.report import figure, table
from tests.bench.targets import NGINX, RELAY_FACES
from tests.bench.works import broadcast, connections, relay

DOCUMENT = ROOT / "README.md"
NCHAN = ("Nchan WebSocket", "Nchan EventSource", "")
_CPU = (
    ("100 answers at 50 tokens/s", relay.WORK, relay.case(relay.PACED, 100)),
    ("10 answers as fast as they come", relay.WORK, relay.case(relay.FLAT, 10)),
    ("a message of 1 kB to 1,000 viewers", broadcast.WORK, broadcast.case(1_000, 1_000)),
    ("ten at once to 1,000 viewers", broadcast.WORK, broadcast.case(1_000, 1_000, 10)),
    ("accepting a connection", connections.WORK, connections.case(8_000)),
)
"""Works, in the words of the README."""


def text(results: Results) -> str:
    """Return the paragraph and its table."""
    when = dt.datetime.now(dt.UTC).date().isoformat()
    rows = []
    for what, work, case in _CPU:
        others = (NGINX,) * 3 if work == relay.WORK else NCHAN
        ratios = [
            results.ratio(work, case, face, other)
            for face, other in zip(RELAY_FACES, others, strict=True)
        ]
        rows.append((f"{what}, {_peer(work)}", *map(_times, ratios)))
        if work == relay.WORK and (pure := results.ratio(work, case, PURE, NGINX)):
            rows.append((f"{what}, in pure Python, {_peer(work)}", _times(pure), "", ""))
    pairs = zip(RELAY_FACES, NCHAN, strict=True)
    held = [_memory(results, face, other) for face, other in pairs]
    rows.append(("memory of an idle connection, Nchan", *map(_times, held)))
    head = ("the work, and the alternative", "WebSocket", "event stream", "OpenAI's wire")
    return f"Measured by `make bench` on {when}.\n\n{table(head, rows)}\n"


def _peer(work: str) -> str:
    return "nginx's `proxy_pass`" if work == relay.WORK else "Nchan"


def _memory(results: Results, face: str, other: str) -> float | None:
    case = connections.case(8_000)
    ours = results.median(connections.WORK, case, face, "memory")
    theirs = results.median(connections.WORK, case, other, "memory")
    return ours / theirs if ours and theirs else None


def _times(ratio: float | None) -> str:
    return "" if ratio is None else f"{figure(ratio)} x"
