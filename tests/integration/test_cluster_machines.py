"""Three machines with one store, in network namespaces: see ``tests/machines.py``."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.machines import possible
from tests.workers import ROOT

WHY_NOT = possible()
pytestmark = pytest.mark.skipif(bool(WHY_NOT), reason=f"no network namespaces: {WHY_NOT}")


@pytest.mark.parametrize("scenario", ["rolling", "partition=both"])
def test_three_machines_are_one_service(scenario: str) -> None:
    done = subprocess.run(
        ["unshare", "--net", sys.executable, "-m", "tests.machines", scenario],
        cwd=ROOT, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
