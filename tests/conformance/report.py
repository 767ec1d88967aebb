"""Results on the terminal and, each between its two markers, in docs/conformance.md."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Sequence
from typing import Final

from tests.conformance.environments import ROOT
from tests.conformance.result import Result

DOCUMENT: Final = ROOT / "docs" / "conformance.md"


def spoken(result: Result) -> str:
    """What is said about a suite on the terminal."""
    if result.missing:
        return f"{result.suite}: NOT RUN. {result.missing}"
    verdict = "FAILED" if result.failures else "passed"
    head = f"{result.suite}: {verdict} in {result.seconds:.0f} seconds"
    return "\n\n".join([head, *result.lines, *(f"FAILED: {what}" for what in result.failures)])


def keep(results: Sequence[Result]) -> None:
    """Write the results of suites that have run; what stands there of others stays."""
    text = DOCUMENT.read_text()
    for result in results:
        if not result.missing:
            text = _replaced(text, result)
    DOCUMENT.write_text(text)


def _replaced(text: str, result: Result) -> str:
    begin = f"<!-- {result.suite}: written by make conformance -->"
    end = f"<!-- end of {result.suite} -->"
    today = dt.datetime.now(dt.UTC).date().isoformat()
    verdict = f"**Failed** on {today}:" if result.failures else f"Passed on {today}."
    failures = [f"- {what.splitlines()[0]}" for what in result.failures]
    body = "\n\n".join([verdict, *failures, *result.lines])
    pattern = re.escape(begin) + ".*?" + re.escape(end)
    made, found = re.subn(
        pattern, lambda _: f"{begin}\n{body}\n{end}", text, count=1, flags=re.DOTALL
    )
    if not found:
        raise ValueError(f"{DOCUMENT.name} has no place for {result.suite}: {begin} ... {end}")
    return made
