"""A bounded table that one holder cannot fill at the others' expense."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from streaming_api.access.fair_table import FairTable


def test_who_holds_most_loses_their_oldest() -> None:
    table: FairTable[int] = FairTable(4)
    table.put("a", 1, "few")
    for number in range(10):
        table.put(str(number), number, "many")
    assert table.get("a") == 1
    assert [key for key in map(str, range(10)) if table.get(key) is not None] == ["7", "8", "9"]


@given(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.sampled_from("xyz"), st.booleans())))
def test_the_table_never_holds_more_and_knows_whose_each_is(
    steps: list[tuple[str, str, bool]],
) -> None:
    table: FairTable[str] = FairTable(5)
    for key, holder, put in steps:
        if put:
            table.put(key, holder, holder)
            assert table.get(key) == holder
        else:
            table.pop(key)
            assert table.get(key) is None
        assert len(table) == sum(table.get(key) is not None for key in "abcdefgh") <= 5
