"""Processes: what each process says about itself, and what the service is therefore. Does no I/O.

Alone, a process speaks for the service. One of several says each second what it knows of itself
(`Report`), and whoever makes the topics puts that together: figures of a process are labelled with
its name, the history adds them up, and a component is as the worst of them finds it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

import attrs
import cattrs
import orjson

from streaming_api.sources.values import SourceError
from streaming_api.topics.history import Figures
from streaming_api.topics.metrics import Values, series
from streaming_api.topics.rules import Readings
from streaming_api.topics.status import SELF, Component, Status

_WORST_FIRST: Final = ("down", "up", "loading", "absent", "draining")
"""Who begins or stops does not speak for the service as long as others are up."""
_SUMMED_SECONDS: Final = frozenset({"cpu_seconds"})


@attrs.frozen
class Report:
    """What one process says about itself.

    Attributes:
        worker: its name.
        age: seconds since it began.
        figures: for the source ``process`` of the metrics.
        history: for the history.
        readings: for our own alerts.
        components: what it says of the components that every process looks at for itself.
    """

    worker: str
    age: float
    figures: Mapping[str, float | None]
    history: Mapping[str, float | None]
    readings: Readings
    components: Mapping[str, Component]

    def encode(self) -> bytes:
        """Return it as JSON."""
        return orjson.dumps(attrs.asdict(self))

    @classmethod
    def decode(cls, text: bytes) -> Report:
        """Return the report that this JSON is; fields of a later version are ignored."""
        return cattrs.structure(orjson.loads(text), cls)

    @property
    def leaving(self) -> bool:
        """Whether it is about to end."""
        return self.components[SELF].state == "draining"


class Processes:
    """This process, and the others of the service.

    Args:
        name: the name of this process among several; empty if it is alone.
        own: the components as this process finds them.

    Attributes:
        figures: called for this process' figures in the metrics.
        history: called each second for this process' part of the history.
        readings: called for what our own alerts are based on.
        reports: the newest report of each of several, with this one's; the youngest comes last, as
            it takes over the name of one that leaves.
    """

    def __init__(self, name: str, own: Status) -> None:
        self.name = name
        self.own = own
        self.figures: Callable[[], Values] = dict
        self.history: Callable[[], Figures] = dict
        self.readings: Callable[[], Readings] = Readings
        self.reports: list[Report] = []
        self._began = time.monotonic()

    @property
    def age(self) -> float:
        """Seconds since this process began."""
        return time.monotonic() - self._began

    def report(self) -> Report:
        """Return what this process says about itself."""
        return Report(
            worker=self.name,
            age=round(self.age, 3),
            figures=_given(self.figures),
            history=_given(self.history),
            readings=attrs.evolve(self.readings(), worker=self.name),
            components=self.own.all(),
        )

    def hear(self, reports: Iterable[Report]) -> None:
        """Note the newest report of every process."""
        self.reports = sorted(reports, key=lambda each: -each.age)

    def all_figures(self) -> Values:
        """Return the figures of every process, labelled if there may be several."""
        if not self.name:
            return self.figures()
        return {
            series(name, {"worker": each.worker}): value
            for each in self.reports
            for name, value in each.figures.items()
        }

    def all_history(self) -> Figures:
        """Return the service's figures: sums, but of what are seconds the largest."""
        if not self.name:
            return self.history()
        names = dict.fromkeys(name for each in self.reports for name in each.history)
        return {
            name: _together(name, [each.history.get(name) for each in self.reports])
            for name in names
        }

    def all_readings(self) -> list[Readings]:
        """Return what our own alerts are based on, of every process."""
        return [each.readings for each in self.reports] if self.name else [self.readings()]

    def all_components(self) -> dict[str, Component]:
        """Return what several processes say together of the components that each looks at."""
        reports = sorted(self.reports, key=lambda each: each.worker)
        names = dict.fromkeys(name for each in reports for name in each.components)
        return {
            name: _agreed(
                name, [(each.worker, c) for each in reports if (c := each.components.get(name))]
            )
            for name in names
        }


def _given(figures: Callable[[], Values]) -> Values:
    """Return the figures, or none if the system does not give them now."""
    try:
        return figures()
    except SourceError:
        return {}


def _together(name: str, values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    if not known:
        return None
    is_worst = name.endswith("_seconds") and name not in _SUMMED_SECONDS
    return max(known) if is_worst else sum(known)


def _agreed(name: str, said: Sequence[tuple[str, Component]]) -> Component:
    """Return what several processes say of a component, with the names of those who differ."""
    states = {component.state for _, component in said}
    state = next(each for each in (*_WORST_FIRST, *states) if each in states)
    # that some of them leave does not make this service down, but is worth a word
    counted = states if name == SELF else {state}
    reporting = [(who, each) for who, each in said if each.state in counted]
    reasons = [(who, each.reason) for who, each in reporting if each.reason]
    if len(reasons) == len(said) and len({reason for _, reason in reasons}) == 1:
        text = reasons[0][1]
    else:
        text = " ".join(f"{who}: {reason}" for who, reason in reasons)
    detail = next((each.detail for _, each in reporting if each.detail), None)
    return Component(state, "", text or None, detail)
