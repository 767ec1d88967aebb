"""Recent rows: the newest are there, in order, and what is older is gone."""

from __future__ import annotations

from array import array

import pytest

from streaming_api.telemetry.recent import RecentRows


def test_without_rows_there_is_nothing() -> None:
    rows = RecentRows(3, 2)
    assert rows.rows(0) == []
    assert rows.firsts(0) == []
    assert list(rows.total(0)) == [0, 0]


@pytest.mark.parametrize("count", [1, 3, 4, 8])
def test_the_newest_rows_are_there_oldest_first(count: int) -> None:
    rows = RecentRows(3, 2)
    for now in range(count):
        rows.begin(now)
        rows.values[rows.row] += now
        rows.values[rows.row + 1] += 1
    newest = list(range(count))[-3:]
    assert rows.since == newest[-1]
    assert rows.rows(0) == [(now, array("d", [now, 1])) for now in newest]
    assert sorted(rows.firsts(0)) == newest
    assert list(rows.total(0)) == [sum(newest), len(newest)]
    assert list(rows.total(newest[-1])) == [newest[-1], 1]


def test_a_row_may_begin_with_values() -> None:
    rows = RecentRows(2, 2)
    rows.begin(1.0, array("d", [3, 4]))
    rows.begin(2.0)
    assert rows.rows(0) == [(1.0, array("d", [3, 4])), (2.0, array("d", [0, 0]))]
