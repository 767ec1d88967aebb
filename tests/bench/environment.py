"""The benchmark's own set-up: nginx and Nchan from Debian, Python peers in `.bench-venv`."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import venv
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from tests.bench.bench import say
from tests.bench.peers.base import PEER_PYTHON
from tests.bench.peers.nginx import NCHAN_MODULE

REQUIREMENTS = Path(__file__).with_name("requirements-peers.txt")
DEBIAN = ("nginx", "libnginx-mod-nchan")
PEER_PACKAGES = ("fastapi", "uvicorn", "uvloop", "httptools", "httpx", "sse-starlette", "litellm")
OUR_PACKAGES = ("streaming-api", "aiohttp", "uvloop", "orjson")


class SetupError(Exception):
    """Something that the benchmark needs is missing; says how to get it."""


def prepare() -> None:
    """Install what is missing.

    Raises:
        SetupError: It could not be installed.
    """
    if shutil.which("nginx") is None or not NCHAN_MODULE.exists():
        _install_debian()
    stamp = PEER_PYTHON.parents[1] / "requirements.sha256"
    wanted = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()
    if not stamp.exists() or stamp.read_text() != wanted:
        _install_python(stamp.parent)
        stamp.write_text(wanted)


def _install_debian() -> None:
    command = ["apt-get", "install", "-y", "--no-install-recommends", *DEBIAN]
    if os.geteuid() != 0:
        if shutil.which("sudo") is None:
            raise SetupError(f"nginx and Nchan are missing; as root: {' '.join(command)}")
        command = ["sudo", "-n", *command]
    say(f"installing nginx and Nchan: {' '.join(command)}")
    if _run(command) != 0:
        raise SetupError(f"nginx and Nchan are missing; as root: {' '.join(command)}")


def _install_python(folder: Path) -> None:
    say(f"installing the Python peers into {folder.name} (about a minute, once)")
    venv.create(folder, with_pip=True, symlinks=True, clear=True)
    (folder / ".gitignore").write_text("*\n")
    pip = [str(PEER_PYTHON), "-m", "pip", "install", "--disable-pip-version-check", "--quiet"]
    if _run([*pip, "-r", str(REQUIREMENTS)]) != 0:
        raise SetupError(f"pip could not install {REQUIREMENTS.name}; its output is above")


def _run(command: Sequence[str]) -> int:
    return subprocess.run(command, check=False, stdout=sys.stderr).returncode


def versions() -> list[tuple[str, str]]:
    """What ran: pairs of name and version."""
    nginx = _output(["nginx", "-v"]).rpartition("/")[2]
    return [
        ("processor", f"{_processor()}, {len(os.sched_getaffinity(0))} cores used"),
        ("kernel", platform.release()),
        ("Python", platform.python_version()),
        *((name, _version(name)) for name in OUR_PACKAGES),
        ("nginx", nginx),
        ("Nchan", _output(["dpkg-query", "-W", "-f", "${Version}", DEBIAN[1]]) or "unknown"),
        *_peer_versions(),
    ]


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "this checkout"


def _peer_versions() -> list[tuple[str, str]]:
    ask = "from importlib.metadata import version; import sys; "
    ask += "print(*map(version, sys.argv[1:]))"
    found = _output([str(PEER_PYTHON), "-c", ask, *PEER_PACKAGES]).split()
    return [
        (f"{name} (peer)", version) for name, version in zip(PEER_PACKAGES, found, strict=False)
    ]


def _output(command: Sequence[str]) -> str:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    return (done.stdout or done.stderr).strip()


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
