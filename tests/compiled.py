"""The compiled build of this checkout, in a copy of it that git ignores; the checkout runs pure.

``python -m tests.compiled`` brings `FOLDER` up to date, which takes half a minute when the
source has changed, and prints where it is. What is run there (tests, the server) runs compiled.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
FOLDER: Final = ROOT / ".compiled"
_NOT_COPIED: Final = ("__pycache__", "*.so", "*.egg-info", "build", "dist", "node_modules")


def build() -> Path:
    """Bring the compiled copy up to date; where it is.

    Raises:
        subprocess.CalledProcessError: it could not be compiled; mypyc or the C compiler says why.
    """
    stamp = FOLDER / ".stamp"
    wanted = _fingerprint()
    if not stamp.exists() or stamp.read_text() != wanted:
        shutil.rmtree(FOLDER, ignore_errors=True)
        _copy()
        subprocess.run(
            [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"],
            cwd=FOLDER,
            env=os.environ | {"STREAMING_API_COMPILE": "1"},
            check=True,
            stdout=sys.stderr,
        )
        shutil.rmtree(FOLDER / "build")
        stamp.write_text(wanted)
    else:
        _copy()
    return FOLDER


def _copy() -> None:
    ignored = shutil.ignore_patterns(*_NOT_COPIED)
    names = [entry.name for entry in ROOT.iterdir() if not entry.name.startswith(".")]
    for name in {*names, ".ci"} - ignored(str(ROOT), names):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, FOLDER / name, ignore=ignored, dirs_exist_ok=True)
        else:
            FOLDER.mkdir(exist_ok=True)
            shutil.copy2(ROOT / name, FOLDER / name)


def _fingerprint() -> str:
    """Of everything that what is compiled depends on."""
    found = hashlib.sha256(sys.version.encode())
    for path in sorted([*ROOT.glob("streaming_api/**/*.py"), *ROOT.glob("setup.*")]):
        found.update(str(path.relative_to(ROOT)).encode() + path.read_bytes())
    return found.hexdigest()


if __name__ == "__main__":
    print(build())
