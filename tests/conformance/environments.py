"""What the suites run in, set up once below .conformance/: CPython 2.7, a venv, npm packages.

Each function returns where it is, or raises `Missing` with what a person can do about it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
HERE: Final = Path(__file__).parent
HOME: Final = ROOT / ".conformance"
AUTOBAHN: Final = "autobahntestsuite==25.10.1"
_INSTALL_SECONDS: Final = 600
_PIP_INSTALL: Final = ("-m", "pip", "install", "--disable-pip-version-check")


class Missing(Exception):
    """A suite cannot run here; the text says what would let it."""


def python2() -> Path:
    """CPython 2.7: on the PATH, or one of pyenv's.

    Raises:
        Missing: there is none.
    """
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    found = shutil.which("python2.7")
    candidates = [*sorted(pyenv.glob("2.7*/bin/python2.7"), reverse=True)]
    if found is not None:
        candidates.append(Path(found))
    for candidate in candidates:
        asked = [str(candidate), "-m", "pip", "--version"]
        works = subprocess.run(asked, capture_output=True, check=False)
        if works.returncode == 0:
            return candidate
    raise Missing(
        "Autobahn|Testsuite needs CPython 2.7 with pip, which is not on the PATH and not among"
        " pyenv's versions: `pyenv install 2.7.18`, then again."
    )


def autobahn() -> tuple[Path, Mapping[str, str]]:
    """The interpreter, and the environment in which it finds Autobahn|Testsuite.

    Raises:
        Missing: no interpreter, or it cannot be installed.
    """
    python = python2()
    base = HOME / "autobahn"
    environ = {**os.environ, "PYTHONUSERBASE": str(base), "PYTHONDONTWRITEBYTECODE": "1"}
    environ.pop("PYTHONPATH", None)
    install = [str(python), *_PIP_INSTALL, "--user"]
    _once(base, AUTOBAHN, [*install, "--no-warn-script-location", AUTOBAHN], environ)
    return python, environ


def venv() -> Path:
    """The folder of programs of a virtual environment with this project and the suites from PyPI.

    Raises:
        Missing: it cannot be made.
    """
    base = HOME / "venv"
    wanted = HERE / "requirements.txt"
    python = base / "bin/python"
    if not python.exists():
        _run([sys.executable, "-m", "venv", str(base)])
    install = [str(python), *_PIP_INSTALL]
    _once(base, wanted.read_text(), [*install, "--editable", str(ROOT), f"--requirement={wanted}"])
    return python.parent


def atheris() -> Path:
    """The Python in which Atheris can be imported.

    Raises:
        Missing: there is no wheel of it for this Python.
    """
    python = venv() / "python"
    wanted = HERE / "requirements-atheris.txt"
    install = [str(python), *_PIP_INSTALL]
    try:
        _once(
            HOME / "venv",
            wanted.read_text(),
            [*install, "--only-binary=:all:", f"--requirement={wanted}"],
            name="atheris",
        )
    except Missing as missing:
        raise Missing("There is no wheel of Atheris for this Python.") from missing
    return python


def node() -> tuple[Path, Mapping[str, str]]:
    """Node, and the environment in which it finds the packages.

    Raises:
        Missing: no Node, or they cannot be installed.
    """
    program, npm = shutil.which("node"), shutil.which("npm")
    if program is None or npm is None:
        raise Missing("There is no Node: apt-get install nodejs npm, then again.")
    base = HOME / "node"
    wanted = HERE / "node/package.json"
    base.mkdir(parents=True, exist_ok=True)
    shutil.copy(wanted, base)
    install = [npm, "install", "--no-audit", "--no-fund", "--no-package-lock", f"--prefix={base}"]
    _once(base, wanted.read_text(), install)
    return Path(program), {**os.environ, "NODE_PATH": str(base / "node_modules")}


def _once(
    base: Path,
    wanted: str,
    command: Sequence[str],
    environ: Mapping[str, str] | None = None,
    name: str = "installed",
) -> None:
    """Install what is wanted, unless it has been."""
    stamp = base / f".{name}"
    if stamp.exists() and stamp.read_text() == wanted:
        return
    print(f"Installing into {base.relative_to(ROOT)} ...", flush=True)  # noqa: T201 (it takes a while)
    base.mkdir(parents=True, exist_ok=True)
    _run(command, environ)
    stamp.write_text(wanted)


def _run(command: Sequence[str], environ: Mapping[str, str] | None = None) -> None:
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=environ,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_INSTALL_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Missing(f"{error}") from error
    if done.returncode:
        said = "\n".join((done.stdout + done.stderr).splitlines()[-15:])
        raise Missing(f"This did not work:\n  {' '.join(command)}\n{said}")
