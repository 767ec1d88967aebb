"""The one place where measurements are taken and kept: CPU, wall time, latencies, medians."""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import attrs

from tests.bench import processes
from tests.bench.peers.base import Peer

MILLISECOND = 1e6
MICROSECOND = 1e3
MIB = 2**20


@attrs.frozen(kw_only=True)
class Sample:
    """One measurement of one face in one round.

    Attributes:
        work: What was done, e.g. ``relay``.
        case: At which size, e.g. ``100 answers``.
        face: Of which peer, and how.
        units: How much was done: tokens, deliveries, connections.
        cpu_us: CPU time of the serving processes per unit, microseconds.
        wall_s: Wall time, seconds.
        load_busy: Share of the wall time that the load generator was busy; near 1 it was the limit.
        p50_ms, p95_ms, p99_ms: Latency as the client saw it, milliseconds; None if not measured.
        gap_ms: Time between two tokens of an answer, 99.9th percentile; None if not measured.
        memory: Bytes; None if not measured.
        wire: Bytes that a client read for each unit; None if not measured.
        handshakes: TLS handshakes with the upstream; None if not counted.
    """

    work: str
    case: str
    face: str
    units: int
    cpu_us: float
    wall_s: float
    load_busy: float = 0.0
    p50_ms: float | None = None
    p95_ms: float | None = None
    p99_ms: float | None = None
    gap_ms: float | None = None
    memory: float | None = None
    wire: float | None = None
    handshakes: int | None = None


@attrs.define
class Meter:
    """A measurement that is going on, and then its result."""

    cpu_ns: int = 0
    wall_ns: int = 0
    load_ns: int = 0

    def sample(
        self,
        *,
        work: str,
        case: str,
        face: str,
        units: int,
        latencies_ns: Sequence[int] = (),
        gaps_ns: Sequence[int] = (),
        memory: float | None = None,
    ) -> Sample:
        """What was measured, for so many units of work."""
        ordered = sorted(latencies_ns)
        return Sample(
            work=work,
            case=case,
            face=face,
            units=units,
            cpu_us=self.cpu_ns / max(units, 1) / MICROSECOND,
            wall_s=self.wall_ns / 1e9,
            load_busy=self.load_ns / max(self.wall_ns, 1),
            p50_ms=percentile_ms(ordered, 50),
            p95_ms=percentile_ms(ordered, 95),
            p99_ms=percentile_ms(ordered, 99),
            gap_ms=percentile_ms(sorted(gaps_ns), 99.9),
            memory=memory,
        )


@contextmanager
def measuring(peer: Peer) -> Iterator[Meter]:
    """Take the CPU time that `peer` uses inside the `with`, and the wall time it lasts."""
    meter = Meter()
    pids = peer.pids()
    gc.disable()
    wall, load, cpu = time.monotonic_ns(), time.process_time_ns(), processes.cpu_ns(pids)
    try:
        yield meter
    finally:
        meter.cpu_ns = processes.cpu_ns(pids) - cpu
        meter.load_ns = time.process_time_ns() - load
        meter.wall_ns = time.monotonic_ns() - wall
        gc.enable()


def percentile_ms(ordered: Sequence[int], percent: float) -> float | None:
    """The nearest-rank percentile of sorted nanoseconds, in milliseconds."""
    if not ordered:
        return None
    return ordered[math.ceil(len(ordered) * percent / 100) - 1] / MILLISECOND


@attrs.define
class Results:
    """Every sample of a run, in the order taken."""

    samples: list[Sample] = attrs.field(factory=list)

    def add(self, sample: Sample) -> None:
        """Keep a sample."""
        self.samples.append(sample)

    def cases(self, work: str) -> list[str]:
        """The cases of a work, in the order they were first measured."""
        return list(dict.fromkeys(s.case for s in self.samples if s.work == work))

    def faces(self, work: str) -> list[str]:
        """The faces measured for a work, in the order they were first measured."""
        return list(dict.fromkeys(s.face for s in self.samples if s.work == work))

    def of(self, work: str, case: str, face: str) -> list[Sample]:
        """All rounds of one measurement."""
        key = (work, case, face)
        return [s for s in self.samples if (s.work, s.case, s.face) == key]

    def median(self, work: str, case: str, face: str, figure: str = "cpu_us") -> float | None:
        """The median over the rounds of one figure; None if it was not measured."""
        values: Iterable[float | None] = (getattr(s, figure) for s in self.of(work, case, face))
        measured = [value for value in values if value is not None]
        return statistics.median(measured) if measured else None

    def ratio(self, work: str, case: str, face: str, other: str) -> float | None:
        """CPU per unit of `face` over that of `other`: the median of the rounds' own ratios."""
        return _ratio(self.of(work, case, face), self.of(work, case, other))

    def ratios(self, work: str, case: str, face: str, other: str) -> list[float]:
        """The same ratio of each round."""
        return _ratios(self.of(work, case, face), self.of(work, case, other))

    def ratio_of_cases(self, work: str, case: str, other: str, face: str) -> float | None:
        """CPU per unit of one case over that of another, likewise."""
        return _ratio(self.of(work, case, face), self.of(work, other, face))


def _ratio(samples: Sequence[Sample], others: Sequence[Sample]) -> float | None:
    ratios = _ratios(samples, others)
    return statistics.median(ratios) if ratios else None


def _ratios(samples: Sequence[Sample], others: Sequence[Sample]) -> list[float]:
    pairs = zip(samples, others, strict=False)
    return [sample.cpu_us / other.cpu_us for sample, other in pairs if other.cpu_us]
