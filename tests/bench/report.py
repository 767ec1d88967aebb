"""The tables: on the terminal and, between two markers, in docs/benchmarks.md."""

from __future__ import annotations

import datetime as dt
import statistics
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tests.bench.measure import MIB, Results
from tests.bench.peers.base import ROOT, Peer
from tests.bench.peers.direct import Direct
from tests.bench.peers.fastapi import FastApi
from tests.bench.peers.litellm import LiteLlm
from tests.bench.peers.nginx import Nchan, Nginx
from tests.bench.peers.ours import OPENAI, Ours, OursInCluster, Pure
from tests.bench.peers.per_token import PerToken
from tests.bench.targets import KIB, NGINX, RELAY_FACES, Target
from tests.bench.works import (
    broadcast,
    cluster,
    connections,
    first_token,
    kept_tls,
    passing_on,
    promise,
    relay,
    responses,
    resume,
    wire_bytes,
)

DOCUMENT = ROOT / "docs" / "benchmarks.md"
BEGIN = "<!-- bench:begin (written by make bench; do not edit) -->"
END = "<!-- bench:end -->"
PEERS: tuple[type[Peer], ...] = (
    Ours, OursInCluster, Pure, Nginx, Nchan, FastApi, LiteLlm, PerToken, Direct,
)  # fmt: skip
REFERENCES = {
    relay.WORK: (NGINX,),
    broadcast.WORK: ("Nchan WebSocket", "Nchan EventSource"),
    connections.WORK: ("Nchan WebSocket", "Nchan EventSource"),
    resume.WORK: ("Nchan WebSocket", "Nchan EventSource"),
    responses.WORK: (OPENAI,),
    passing_on.WORK: (passing_on.NGINX,),
}
Show = Callable[[Results, str, str, str], str]
"""Makes a cell from (results, work, case, face)."""


def markdown(
    results: Results,
    targets: Sequence[Target],
    failures: Sequence[str],
    versions: Sequence[tuple[str, str]],
    command: str,
) -> str:
    """Everything a run has to say."""
    when = dt.datetime.now(dt.UTC).date().isoformat()
    parts = [f"Run of {when}: `{command}`.", *_sections(results)]
    if targets:
        parts += ["### Targets", _targets(targets)]
    if results.samples:
        busiest = max(sample.load_busy for sample in results.samples)
        parts += [f"The load generator was busy {busiest:.0%} of the time at most."]
    if failures:
        parts += ["### What went wrong", "\n".join(f"- {failure}" for failure in failures)]
    parts += ["### Versions", table(("what", "version"), versions)]
    parts += ["### Settings of the peers", *(f"**{p.name}.** {p.settings}" for p in PEERS)]
    return "\n\n".join(parts) + "\n"


def _works_table(results: Results, work: str, show: Show, but: str = "") -> str:
    faces = [face for face in results.faces(work) if face != but]
    first = (*REFERENCES.get(work, ()), NGINX, *RELAY_FACES)
    faces.sort(key=lambda face: first.index(face) if face in first else len(first))
    faces.sort(key=lambda face: face not in first and "streaming-api" not in face)
    cases = _cases(results, work)
    faces = [face for face in faces if any(show(results, work, case, face) for case in cases)]
    rows = [(case, *(show(results, work, case, face) for face in faces)) for case in cases]
    return table(("", *faces), [row for row in rows if any(row[1:])])


def _cases(results: Results, work: str) -> list[str]:
    """The cases in their natural order: by the numbers in their names."""

    def order(case: str) -> tuple[bool, bool, int, int]:
        numbers = [
            int(word.replace(",", ""))
            for word in case.replace(",,", "").split()
            if word.strip(",").replace(",", "").isdigit()
        ]
        size = numbers[0] * (1_000 if " kB" in case else 1) if numbers else 0
        return ("flat" in case, "compressed" in case, size, numbers[-1] if numbers else 0)

    return sorted(results.cases(work), key=order)


def _ratio(results: Results, work: str, case: str, face: str) -> str:
    """The ratio to the reference first, the absolute figure beside it."""
    cost = results.median(work, case, face)
    if cost is None:
        return ""
    references = REFERENCES.get(work, ())
    if face in references:
        return f"1 ({figure(cost)} µs)"
    ratio = results.ratio(work, case, face, _reference(references, face)) if references else None
    return f"({figure(cost)} µs)" if ratio is None else f"{figure(ratio)} x ({figure(cost)} µs)"


def _wire(results: Results, work: str, case: str, face: str) -> str:
    read = results.median(work, case, face, "wire")
    return "" if read is None else figure(read)


def _spread_table(results: Results) -> str:
    rows = []
    for work, references in REFERENCES.items():
        for case in _cases(results, work):
            for face in results.faces(work):
                other = _reference(references, face)
                ratios = results.ratios(work, case, face, other) if "streaming-api" in face else []
                if ratios:
                    shown = map(figure, (statistics.median(ratios), min(ratios), max(ratios)))
                    rows.append((f"{work}, {case}", face, *shown, str(len(ratios))))
    return table(("", "face", "median", "minimum", "maximum", "rounds"), rows)


def _reference(references: Sequence[str], face: str) -> str:
    """What a face is compared with: the one of the same kind, if there is one."""
    websocket = "WebSocket" in face
    return next((r for r in references if ("WebSocket" in r) == websocket), references[0])


def _latency(results: Results, work: str, case: str, face: str) -> str:
    p50 = results.median(work, case, face, "p50_ms")
    p99 = results.median(work, case, face, "p99_ms")
    return "" if p50 is None or p99 is None else f"{figure(p50)} / {figure(p99)} ms"


def _gap(results: Results, work: str, case: str, face: str) -> str:
    gap = results.median(work, case, face, "gap_ms")
    return "" if gap is None else f"{figure(gap)} ms"


def _cpu(results: Results, work: str, case: str, face: str) -> str:
    cost = results.median(work, case, face)
    return "" if cost is None else f"{figure(cost)} µs"


def _held(results: Results, work: str, case: str, face: str) -> str:
    held = results.median(work, case, face, "memory")
    return "" if held is None else f"{held / KIB:.3g} KiB"


def _rate(results: Results, work: str, case: str, face: str) -> str:
    samples = results.of(work, case, face)
    return f"{max(s.units / s.wall_s for s in samples):,.0f}" if samples else ""


SECTIONS: tuple[tuple[str, Show, str], ...] = (
    (relay.WORK, _ratio, "Relay: CPU of the server per token"),
    (relay.WORK, _latency, "Relay: from the upstream's write to the client, p50 / p99"),
    (relay.WORK, _gap, "Relay: between two tokens of an answer, p99.9"),
    (first_token.WORK, _latency, "First token: from asking to the first token, p50 / p99"),
    (responses.WORK, _ratio, "Responses beside chat completions: CPU of the server per token"),
    (passing_on.WORK, _ratio, "Passing on: CPU of the server per request with a body of 1 MB"),
    (kept_tls.WORK, _latency,
     "Kept TLS: from asking to the first token, p50 / p99, upstream over TLS"),
    (broadcast.WORK, _ratio, "Broadcast: CPU of the server per delivery"),
    (broadcast.WORK, _latency, "Broadcast: from publishing to the viewer, p50 / p99"),
    (connections.WORK, _ratio, "Connections: CPU of accepting one"),
    (connections.WORK, _held,
     "Connections: memory of an idle one (PSS of the server, without the kernel's)"),
    (connections.WORK, _rate, "Connections: accepted per second"),
    (resume.WORK, _ratio, "Resume: CPU of the server per replayed message"),
    (cluster.WORK, _cpu,
     "Several processes: CPU per token of the owner, of the store, of another process"),
    (cluster.WORK, _latency,
     "Several processes: from the upstream's write to a client elsewhere, p50 / p99"),
    (cluster.TRIPS, _rate, "Several processes: round trips to the store a second"),
    (cluster.FIRST, _latency, "Several processes: from asking to the first token, p50 / p99"),
    (wire_bytes.WORK, _wire,
     "Wire: bytes that a client reads for each token, framing and end included"),
)  # fmt: skip
"""Which work is shown how, under which heading."""


def _sections(results: Results) -> Iterator[str]:
    for work, show, title in SECTIONS:
        if results.cases(work):
            yield f"### {title}"
            but = "direct" if (work, show) == (relay.WORK, _ratio) else ""  # has no server
            yield _works_table(results, work, show, but)
    if any(results.cases(work) for work in REFERENCES):
        yield "### Spread: each CPU ratio above, with its smallest and its largest round"
        yield _spread_table(results)
    if results.cases(promise.WORK):
        yield (
            "### The promise: 1,000 WebSockets, 500 event streams, 100 answers at 50 tokens/s, "
            "metrics each second (quick runs: a fifth of each)"
        )
        yield _promise_table(results)


def _promise_table(results: Results) -> str:
    rows = []
    for case in results.cases(promise.WORK):
        for s in results.of(promise.WORK, case, Ours.name):
            busy = s.cpu_us * s.units / 1e6 / s.wall_s
            latency = f"{s.p50_ms:.3g} / {s.p95_ms:.3g} / {s.p99_ms:.3g} ms"
            rows.append(
                (case, f"{s.units:,}", latency, f"{busy:.0%}", f"{(s.memory or 0) / MIB:.0f} MiB")
            )
    return table(("", "deliveries", "p50 / p95 / p99", "of one core", "memory"), rows)


def _targets(targets: Sequence[Target]) -> str:
    words = {True: "met", False: "**not met**", None: "not measured"}
    rows = [(t.what, t.limit, t.figure or "-", words[t.met]) for t in targets]
    return table(("target", "limit", "measured", ""), rows)


def figure(value: float) -> str:
    """Three digits at most: ``0.123``, ``1.23``, ``12.3``, ``1,234``."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table whose columns line up."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(c.ljust(w) for c, w in zip(cells, widths, strict=True)) + " |"

    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([line(head), rule, *map(line, rows)])


def write(text: str, document: Path) -> None:
    """Put the text between the markers of the document.

    Raises:
        ValueError: The document has no markers.
    """
    before, begin, rest = document.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{document} has no lines {BEGIN} and {END}")
    document.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{after}")
