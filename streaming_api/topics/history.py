"""The history topic: the last hour of some thirty figures, by the second. Does no I/O.

A ring of floats: a row is a second, a column is a series, a missing value is NaN (JSON:
null). A second in which nothing could be sampled (the process was stopped, or the event loop was
blocked) is a row without values, so that it is seen as a gap and no line is drawn across it.

It has a channel of its own: one message a second would drown the numbers of the other topics.
"""

from __future__ import annotations

import asyncio
import math
import time
from array import array
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, Final

import orjson

from streaming_api.engine.stream import Policy
from streaming_api.topics.topic import Json, Topic
from streaming_api.wire.messages import METRICS

SECONDS: Final = 3600
"""Number of rows that are kept."""
MAX_SERIES: Final = 40
"""Number of columns; further series are left out."""
MAX_MARKS: Final = 500
RECENT: Final = 300
"""Number of rows that a snapshot has one by one; older ones are merged in groups of `COARSE`."""
COARSE: Final = 10
_NAN: Final = math.nan
_LARGEST: Final = 1e15

Figures = Mapping[str, float | None]


class History(Topic):
    """One hour at one second, and marks of what happened in it.

    Args:
        clock: returns the monotonic time in seconds; measures how much was missed.
        wall: returns the seconds since 1970; dates the rows.
    """

    name: ClassVar[str] = "history"
    message_type: ClassVar[str] = METRICS
    policy: ClassVar[Policy] = Policy.LATEST

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, wall: Callable[[], float] = time.time
    ) -> None:
        super().__init__()
        self.figures: Callable[[], Figures] = dict
        self._clock = clock
        self._wall = wall
        self._rows = 0  # how many there have ever been
        self._times = array("d", [_NAN]) * SECONDS
        self._series: dict[str, array[float]] = {}
        self._shown: dict[str, float] = {}  # the newest row, as viewers know it
        self._sampled = -math.inf
        self._marks: deque[dict[str, object]] = deque(maxlen=MAX_MARKS)

    # Writing

    def mark(self, event: str, name: str, severity: str | None = None) -> None:
        """Note that something happened now; charts show it as a vertical line.

        Args:
            event: ``started``, ``draining``, ``firing``, ``resolved``, ``down`` or ``up``.
            name: the name of the alert or the component.
            severity: the severity of an alert.
        """
        mark: dict[str, object] = {"time": round(self._wall()), "event": event, "name": name}
        if severity is not None:
            mark["severity"] = severity
        self._marks.append(mark)
        self.publish(orjson.dumps({"event": "mark", "mark": mark}))

    def sample(self, figures: Figures) -> None:
        """Record the values of this second; the seconds since the last sample are a gap."""
        now = self._clock()
        missed = max(0, round(now - self._sampled) - 1) if self._rows else 0
        moment = self._moment(missed)
        values = {name: _rounded(value) for name, value in figures.items()}
        self._add(moment, missed, values)
        changed = {
            name: value
            for name in self._series
            if not _same(value := values.get(name, _NAN), self._shown.get(name))
        }
        self._shown.update(changed)
        event = {"event": "sampled", "time": moment, "gap": missed, "values": changed}
        self.publish(orjson.dumps(event))

    def _moment(self, missed: int) -> int:
        """Return the time of the next row: a second after the last unless the wall clock jumped."""
        wall = self._wall()
        if not self._rows:
            return round(wall)
        expected = int(self._times[(self._rows - 1) % SECONDS]) + 1 + missed
        return expected if abs(wall - expected) <= 1.5 else round(wall)

    def _add(self, moment: int, missed: int, values: Mapping[str, float]) -> None:
        for behind in range(min(missed, SECONDS), 0, -1):
            self._append(moment - behind, {})
        self._sampled = self._clock()
        self._append(moment, values)

    def _append(self, moment: int, values: Mapping[str, float]) -> None:
        slot = self._rows % SECONDS
        self._rows += 1
        self._times[slot] = moment
        for name in values:
            if name not in self._series and len(self._series) < MAX_SERIES:
                self._series[name] = array("d", [_NAN]) * SECONDS
        for name, column in self._series.items():
            column[slot] = values.get(name, _NAN)

    async def keep_sampling(self) -> None:
        """Sample each second, on the second of the wall clock."""
        while True:
            await asyncio.sleep(1 - self._wall() % 1)
            if self._clock() - self._sampled >= 0.5:
                self.sample(self.figures())

    # Reading

    def since(self, moment: float) -> bytes:
        """Return the JSON of all rows after this time (seconds since 1970), one row a second.

        ``{interval, times, series, marks}``: a list of times, and for each name a list as long.
        """
        times = self._in_order(self._times)
        first = next((at for at, each in enumerate(times) if each > moment), len(times))
        return orjson.dumps(
            {
                "interval": 1,
                "times": [int(each) for each in times[first:]],
                "series": {
                    name: self._in_order(column)[first:].tolist()
                    for name, column in self._series.items()
                },
                "marks": [mark for mark in self._marks if _time_of(mark) > moment],
            }
        )

    def snapshot(self) -> bytes:
        """Return ``{event, times, series, marks}``: last minutes by the second, the rest coarse."""
        times = self._in_order(self._times)
        coarse = max(0, len(times) - RECENT) // COARSE * COARSE
        ends = range(COARSE, coarse + 1, COARSE)
        moments = [int(times[end - 1]) for end in ends] + [int(each) for each in times[coarse:]]
        oldest = times[-1] - SECONDS if times else 0.0  # the start is before the first sample
        series = {}
        for name, column in self._series.items():
            values = self._in_order(column)
            means = [round(sum(values[end - COARSE : end]) / COARSE, 6) for end in ends]
            series[name] = means + values[coarse:].tolist()
        return orjson.dumps(
            {
                "event": "snapshot",
                "times": moments,
                "series": series,
                "marks": [mark for mark in self._marks if _time_of(mark) >= oldest],
            }
        )

    def dump(self) -> bytes:
        """Return all rows, one a second."""
        return self.since(0)

    def fold(self, data: Json) -> None:
        """See `Topic`."""
        match data.get("event"):
            case "mark":
                self._marks.append(data["mark"])
            case "sampled":
                self._shown.update(_numbers(data["values"]))
                self._add(data["time"], data["gap"], self._shown)
            case _:
                self._restore(data)

    def _restore(self, data: Json) -> None:
        """Replace everything. How long ago the last row was, only the wall clock can say."""
        times = data["times"][-SECONDS:]
        series = {name: values[-SECONDS:] for name, values in data["series"].items()}
        self._rows = len(times)
        self._times = _column(times)
        self._series = {name: _column(values) for name, values in series.items()}
        self._shown = _numbers({name: values[-1] for name, values in series.items() if values})
        self._sampled = self._clock() - max(0.0, self._wall() - times[-1]) if times else -math.inf
        self._marks = deque(data["marks"], maxlen=MAX_MARKS)

    def has_mark(self, event: str, name: str, since: float) -> bool:
        """Return whether there is such a mark after this time (seconds since 1970)."""
        return any(
            mark["event"] == event and mark["name"] == name and _time_of(mark) > since
            for mark in self._marks
        )

    def _in_order(self, column: array[float]) -> array[float]:
        """Return the rows of a column, oldest first."""
        start = self._rows % SECONDS
        return column[:start] if self._rows < SECONDS else column[start:] + column[:start]


def _column(values: Sequence[float | None]) -> array[float]:
    """Return a whole column that begins with these values."""
    kept = [_NAN if value is None else value for value in values]
    return array("d", kept) + array("d", [_NAN]) * (SECONDS - len(kept))


def _numbers(values: Figures) -> dict[str, float]:
    return {name: _NAN if value is None else float(value) for name, value in values.items()}


def _rounded(value: float | None) -> float:
    """Round to four digits, more than a chart can show; replace infinities by very large values."""
    if value is None or math.isnan(value):
        return _NAN
    return float(f"{max(-_LARGEST, min(_LARGEST, value)):.4g}")


def _same(value: float, before: float | None) -> bool:
    return before is not None and (value == before or (math.isnan(value) and math.isnan(before)))


def _time_of(mark: Mapping[str, object]) -> float:
    moment = mark["time"]
    assert isinstance(moment, int)
    return moment
