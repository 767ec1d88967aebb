"""Other wires: cuts on each of them, and reloads of a page with `useChat`, in their long form."""

from __future__ import annotations

import time
from typing import Final

from tests.conformance import pytests
from tests.conformance.environments import HOME
from tests.conformance.result import Result, table

SUITE: Final = "Other wires"
TESTS: Final = (
    "tests/integration/test_face_cuts.py",
    "tests/integration/test_use_chat.py::test_reloads_in_mid_answer_lose_and_double_nothing",
)
CUTS, RELOADS = 1_000, 200
SECONDS: Final = 1_200


def run(*, short: bool) -> Result:
    """Run the tests; with `short` as the suite runs them."""
    started = time.monotonic()
    long = {} if short else {"CUTS": str(CUTS), "RELOADS": str(RELOADS)}
    tests = pytests.run(HOME / "faces.xml", TESTS, SECONDS, long)
    rows = [
        (each["wire"], each["cuts"], each["answers"], each["tokens"])
        for each in tests.said.values()
        if "wire" in each
    ]
    head = ("wire", "cuts or reloads", "answers", "tokens, each once and in order")
    return Result(
        suite=SUITE,
        lines=[table(head, rows)],
        failures=tests.failures,
        seconds=time.monotonic() - started,
    )
