"""``python -m tests.containers [PART ...]``: image, book under systemd, composition.

Exit status 0: every part that was asked for ran and passed, or nothing can run here (said).
"""

# ruff: noqa: T201 (a command prints)

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tests.containers import book, composition, image
from tests.containers.engine import Podman, missing

HOME: Final = Path(__file__).parents[2] / ".containers"
PARTS: Final[dict[str, Callable[[Podman], None]]] = {
    "image": image.run,
    "book": book.run,
    "composition": composition.run,
}


def main() -> int:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.containers", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all")
    parser.add_argument("--keep", action="store_true", help="keep the images for the next time")
    options = parser.parse_args()
    unknown = set(options.parts) - set(PARTS)
    if unknown:
        parser.error(f"no such part: {', '.join(unknown)}; there are {', '.join(PARTS)}")
    why = missing()
    if why:
        print(f"Not run: no container can be made here ({why}).")
        print("tests/integration/test_install.py runs the same steps outside of one.")
        return 0
    podman = Podman(HOME)
    try:
        podman.make_base()
        for name in options.parts or PARTS:
            print(f"== {name}", flush=True)
            PARTS[name](podman)
            print(f"{name}: passed\n", flush=True)
    finally:
        if not options.keep:
            podman("system", "reset", "--force", check=False)
            shutil.rmtree(HOME, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
