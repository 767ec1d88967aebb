"""Clients that other people wrote: the tests that drive them, run on their own, with versions."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from importlib.metadata import version
from typing import Final

from tests.conformance.environments import HERE, HOME, ROOT
from tests.conformance.result import Result, table

SUITE: Final = "Real clients"
REPORT: Final = HOME / "clients.xml"
TESTS: Final = ("tests/integration/test_real_clients.py", "tests/integration/test_openai.py")
SECONDS: Final = 300
_PACKAGES: Final = ("openai", "websockets", "httpx-sse", "playwright")


def run(*, short: bool) -> Result:  # noqa: ARG001 (they take seconds)
    """Run the tests; what was skipped has not been shown, and so is a failure."""
    started = time.monotonic()
    HOME.mkdir(exist_ok=True)
    REPORT.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", "-q", "-rs", f"--junitxml={REPORT}", *TESTS]
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=SECONDS,
            check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return Result(suite=SUITE, failures=[f"the tests took more than {SECONDS} seconds"])
    if not REPORT.exists():
        return Result(
            suite=SUITE, failures=[f"the tests came to no result:\n{done.stdout[-2000:]}"]
        )
    suite = ET.parse(REPORT).getroot().find("testsuite")  # noqa: S314 (pytest wrote it just now)
    assert suite is not None
    counts = [int(suite.get(what, "0")) for what in ("tests", "failures", "errors", "skipped")]
    failures = []
    if done.returncode or any(counts[1:]):
        failures.append(f"{' '.join(command[1:])}:\n{done.stdout[-3000:]}")
    paths = ", ".join(f"`{path}`" for path in TESTS)
    about = f"{paths}: {counts[0]} tests, {sum(counts[1:3])} failed, {counts[3]} skipped."
    lines = [about, table(("client", "version"), list(_versions()))]
    seconds = time.monotonic() - started
    return Result(suite=SUITE, lines=lines, failures=failures, seconds=seconds)


def _versions() -> Iterator[tuple[str, str]]:
    for package in _PACKAGES:
        yield f"`{package}` (PyPI)", version(package)
    pinned: dict[str, dict[str, str]] = json.loads((HERE / "node/package.json").read_text())
    for package, number in pinned["dependencies"].items():
        yield f"`{package}` (npm)", number
    for program in ("node", "chromium"):
        yield program, _program_version(program)


def _program_version(program: str) -> str:
    if shutil.which(program) is None:
        return "not installed"
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"
