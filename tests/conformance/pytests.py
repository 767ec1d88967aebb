"""Tests of this repository run on their own: how many, what failed, what they recorded."""

from __future__ import annotations

import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs

from tests.conformance.environments import ROOT


@attrs.frozen
class Tests:
    """What became of them.

    Attributes:
        ran, failed, skipped: how many.
        said: by name of test, the properties that it recorded.
        failures: a sentence each; what was skipped has not been shown, and so is a failure.
    """

    ran: int = 0
    failed: int = 0
    skipped: int = 0
    said: Mapping[str, Mapping[str, str]] = attrs.field(factory=dict)
    failures: Sequence[str] = ()


def run(
    report: Path, arguments: Sequence[str], seconds: float, environ: Mapping[str, str] | None = None
) -> Tests:
    """Run tests.

    Args:
        report: where pytest writes its own report.
        arguments: files, and options.
        seconds: what all of them may take.
        environ: further environment variables.
    """
    report.parent.mkdir(exist_ok=True)
    report.unlink(missing_ok=True)
    options = ["-q", "-rs", "-o", "junit_family=xunit1", f"--junitxml={report}"]
    command = [sys.executable, "-m", "pytest", *options, *arguments]
    try:
        done = subprocess.run(
            command, cwd=ROOT, env={**os.environ, **(environ or {})}, capture_output=True,
            text=True, timeout=seconds, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return Tests(failures=[f"the tests took more than {seconds:.0f} seconds"])
    if not report.exists():
        return Tests(failures=[f"the tests came to no result:\n{done.stdout[-2000:]}"])
    suite = ET.parse(report).getroot().find("testsuite")  # noqa: S314 (pytest wrote it just now)
    assert suite is not None
    ran, failed, broken, skipped = (
        int(suite.get(what, "0")) for what in ("tests", "failures", "errors", "skipped")
    )
    failures = []
    if done.returncode or failed or broken or skipped:
        failures.append(f"{' '.join(command[1:])}:\n{done.stdout[-3000:]}")
    said = {
        case.get("name", ""): {
            each.get("name", ""): each.get("value", "") for each in case.iter("property")
        }
        for case in suite.iter("testcase")
    }
    return Tests(ran, failed + broken, skipped, said, failures)
