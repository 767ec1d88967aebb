"""What the page computes without a page: ``node --test`` runs ``tests/page``."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

NODE: Final = shutil.which("node")
FOLDER: Final = Path(__file__).parent.parent / "page"


@pytest.mark.skipif(NODE is None, reason="needs Node.js: apt-get install nodejs")
@pytest.mark.parametrize("name", sorted(path.name for path in FOLDER.glob("*.test.js")))
def test_the_modules_of_the_page(name: str) -> None:
    assert NODE is not None
    command = [NODE, "--experimental-default-type=module", "--test", str(FOLDER / name)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
