"""Clients that other people wrote: the tests that drive them, run on their own, with versions."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from importlib.metadata import version
from typing import Final

from tests.conformance import pytests
from tests.conformance.environments import HERE, HOME
from tests.conformance.result import Result, table

SUITE: Final = "Real clients"
TESTS: Final = ("tests/integration/test_real_clients.py", "tests/integration/test_openai.py")
SECONDS: Final = 300
_PACKAGES: Final = ("openai", "websockets", "httpx-sse", "playwright")


def run(*, short: bool) -> Result:  # noqa: ARG001 (they take seconds)
    """Run the tests; what was skipped has not been shown, and so is a failure."""
    started = time.monotonic()
    tests = pytests.run(HOME / "clients.xml", TESTS, SECONDS)
    paths = ", ".join(f"`{path}`" for path in TESTS)
    about = f"{paths}: {tests.ran} tests, {tests.failed} failed, {tests.skipped} skipped."
    lines = [about, table(("client", "version"), list(_versions()))]
    seconds = time.monotonic() - started
    return Result(suite=SUITE, lines=lines, failures=tests.failures, seconds=seconds)


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
