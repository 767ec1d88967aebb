"""Recent rows: numbers of the last while, in one block of memory that is made once.

As objects they would lie wherever there was room when they were made, beside answers, and stay for
minutes; and CPython gives no MiB back in which one object is in use.
"""

from __future__ import annotations

import math
from array import array


class RecentRows:
    """The newest rows of numbers, each with the time at which it began.

    Args:
        rows: how many there are; the oldest makes room for the next.
        columns: numbers in a row.

    Attributes:
        values: the numbers of all rows.
        row: where the newest begins in ``values``.
    """

    def __init__(self, rows: int, columns: int) -> None:
        self.values = array("d", [0.0]) * (rows * columns)
        self.row = 0
        self._times = array("d", [-math.inf]) * rows
        self._nothing = array("d", [0.0]) * columns
        self._newest = 0

    @property
    def since(self) -> float:
        """Time of the newest row; minus infinity without any."""
        return self._times[self._newest]

    def begin(self, now: float, values: array[float] | None = None) -> None:
        """Begin a row, of zeros if no values are given."""
        self._newest = newest = (self._newest + 1) % len(self._times)
        self._times[newest] = now
        self.row = newest * len(self._nothing)
        row = self._nothing if values is None else values
        self.values[self.row : self.row + len(self._nothing)] = row

    def rows(self, since: float) -> list[tuple[float, array[float]]]:
        """Return the rows that began at this time or later, oldest first."""
        columns, count = len(self._nothing), len(self._times)
        oldest = self._newest + 1
        return [
            (self._times[at], self.values[at * columns : (at + 1) * columns])
            for at in (number % count for number in range(oldest, oldest + count))
            if self._times[at] >= since
        ]

    def firsts(self, since: float) -> list[float]:
        """Return the first column of these rows, in no order."""
        column = self.values[:: len(self._nothing)]
        return [value for at, value in zip(self._times, column, strict=True) if at >= since]

    def total(self, since: float) -> array[float]:
        """Return the sums of the columns over these rows."""
        total = array("d", self._nothing)
        for _, row in self.rows(since):
            for column, value in enumerate(row):
                total[column] += value
        return total
