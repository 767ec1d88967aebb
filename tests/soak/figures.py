"""Figures of a soak: samples of a process, the slope of its memory, percentiles, promises."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import attrs

SECONDS_AN_HOUR: Final = 3_600.0


@attrs.frozen
class Sample:
    """A process at one moment.

    Attributes:
        when: seconds since the load began.
        memory: MiB that are its alone.
        descriptors: open.
    """

    when: float
    memory: float
    descriptors: int


@attrs.frozen
class Slope:
    """A line through samples of memory by least squares.

    Attributes:
        per_hour: MiB an hour.
        error: standard error of that, if samples scatter independently about the line.
        samples: how many.
    """

    per_hour: float
    error: float
    samples: int


def slope(samples: Sequence[Sample]) -> Slope:
    """How memory grows. Needs three samples."""
    count = len(samples)
    middle = sum(sample.when for sample in samples) / count
    mean = sum(sample.memory for sample in samples) / count
    spread = sum((sample.when - middle) ** 2 for sample in samples)
    rise = sum((sample.when - middle) * (sample.memory - mean) for sample in samples) / spread
    rest = sum((sample.memory - mean - rise * (sample.when - middle)) ** 2 for sample in samples)
    error = math.sqrt(rest / (count - 2) / spread)
    return Slope(rise * SECONDS_AN_HOUR, error * SECONDS_AN_HOUR, count)


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that so large a share of them does not exceed; NaN of none."""
    if not values:
        return math.nan
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


@attrs.define
class Report:
    """What is said in the end, and whether a promise was broken."""

    lines: list[str] = attrs.field(factory=list)
    broken: list[str] = attrs.field(factory=list)

    def say(self, text: str) -> None:
        """Print a figure at once: a soak takes long."""
        self.lines.append(text)
        print(text, flush=True)  # noqa: T201 - a command's output

    def promise(self, what: str, kept: object) -> None:
        """Print whether a promise was kept, and remember if it was not."""
        self.say(f"  {'kept  ' if kept else 'BROKEN'}  {what}")
        if not kept:
            self.broken.append(what)
