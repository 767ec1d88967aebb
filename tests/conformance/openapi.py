"""Schemathesis: requests made from /streaming/openapi.json, replies held against it."""

from __future__ import annotations

import json
import os
import subprocess
import time
from typing import Final

from tests.conformance.environments import HERE, HOME, Missing, venv
from tests.conformance.result import Result, table
from tests.conformance.servers import serving

SUITE: Final = "Schemathesis"
REPORT: Final = HOME / "schemathesis.json"
SECONDS: Final = 240
"""Seconds of the whole suite; what examples and fuzzing leave goes to sequences of calls."""
SHORT_SECONDS: Final = 30
_MARGIN: Final = 120
_CHECKS: Final = (
    "no 5xx, no undocumented status, content type, header or body, no invalid request taken, no"
    " valid one refused, no undocumented method"
)


def run(*, short: bool) -> Result:
    """Run it against a server with a healthy upstream, whose topic streams end after a moment."""
    started = time.monotonic()
    try:
        program = venv() / "schemathesis"
    except Missing as missing:
        return Result(suite=SUITE, missing=str(missing))
    REPORT.unlink(missing_ok=True)
    seconds = SHORT_SECONDS if short else SECONDS
    with serving("tests.conformance.subject") as url:
        said = _run(
            [
                str(program),
                "--config-file",
                str(HERE / "schemathesis.toml"),
                "run",
                f"{url}/streaming/openapi.json",
                *("--max-time", str(seconds)),
                *("--max-examples", "10" if short else "200"),
                *("--request-timeout", "10"),
                *("--report", "json", "--report-json-path", str(REPORT)),
                "--continue-on-failure",
            ],
            seconds + _MARGIN,
        )
    if not REPORT.exists():
        return Result(suite=SUITE, failures=[f"the suite came to no result:\n{said[-2000:]}"])
    return _result(said, time.monotonic() - started)


def _run(command: list[str], seconds: int) -> str:
    environ = {**os.environ, "NO_COLOR": "1", "COLUMNS": "100"}
    try:
        done = subprocess.run(
            command,
            cwd=HOME,
            env=environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"It was stopped after {seconds} seconds."
    return done.stdout


def _result(said: str, seconds: float) -> Result:
    report = json.loads(REPORT.read_text())
    operations, cases = report["operations"], report["test_cases"]
    phases = {name: phase["status"] for name, phase in report["phases"].items() if phase["status"]}
    failures = []
    if report["exit_code"] or cases["with_failures"] or report["errors"]:
        _, _, details = said.partition(" FAILURES ")
        failures.append(f"{cases['unique_failures']} unique failures:\n{details or said[-3000:]}")
    if operations["tested"] != operations["total"]:
        failures.append(f"only {operations['tested']} of {operations['total']} operations tested")
    about = (
        f"Schemathesis {report['schemathesis_version']}, seed {report['seed']},"
        f" {seconds:.0f} seconds. Checked: {_CHECKS}."
    )
    row = (
        f"{operations['tested']} of {operations['total']}",
        cases["generated"],
        cases["with_failures"],
        ", ".join(f"{name}: {status}" for name, status in phases.items()),
    )
    lines = [about, table(("operations", "requests", "with failures", "phases"), [row])]
    return Result(suite=SUITE, lines=lines, failures=failures, seconds=seconds)
