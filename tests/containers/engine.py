"""Podman, in a store of its own, with a Debian made from this machine's packages as base image.

No registry is asked: what ``FROM`` names is made by mmdebstrap. What this machine's pip is
configured with (an index, folders with wheels) holds while images are built, too.
"""

from __future__ import annotations

import json
import os
import re
import resource
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Final

BASE: Final = "docker.io/library/debian:bookworm-slim"
SUITE: Final = "bookworm"
NEEDED: Final = ("podman", "runc", "mmdebstrap", "curl")
"""Programs; the Debian packages are called the same."""
AT_MOST: Final = 16_384
"""Descriptors and processes; a container may not be given more than this process may have."""
MINUTE: Final = 60.0


def missing() -> str:
    """What keeps containers from running here, in words; "" if nothing does."""
    absent = [name for name in NEEDED if shutil.which(name) is None]
    if absent:
        return f"apt-get install {' '.join(absent)}"
    if os.geteuid() != 0:
        return "only root can make the base image"
    return ""


class Podman:
    """Podman with a store of its own.

    Args:
        folder: where everything is kept, images included.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._own = [
            "--runtime=runc", f"--root={folder / 'store'}", f"--runroot={folder / 'run'}",
            f"--tmpdir={folder / 'state'}", "--cgroup-manager=cgroupfs", "--events-backend=none",
        ]  # fmt: skip
        most = {"nofile": resource.RLIMIT_NOFILE, "nproc": resource.RLIMIT_NPROC}
        limits = {name: min(resource.getrlimit(of)[1], AT_MOST) for name, of in most.items()}
        self._limits = [f"{name}={limit}:{limit}" for name, limit in limits.items()]
        settings = folder / "containers.conf"
        settings.write_text(f"[containers]\ndefault_ulimits = {json.dumps(self._limits)}\n")
        self._environment = os.environ | {"CONTAINERS_CONF": str(settings)}

    def __call__(self, *words: str, seconds: float = 5 * MINUTE, check: bool = True) -> str:
        """Run a podman command; return what it wrote, both ways."""
        done = subprocess.run(
            ["podman", *self._own, *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=self._environment,
            timeout=seconds,
            check=False,
        )
        if check and done.returncode:
            message = f"podman {' '.join(words)} failed ({done.returncode}):\n{done.stdout[-6000:]}"
            raise RuntimeError(message)
        return done.stdout

    def command(self, folder: Path) -> str:
        """Write a program into a folder that is podman with this store; return its path."""
        program = folder / "podman"
        settings = f"CONTAINERS_CONF={shlex.quote(self._environment['CONTAINERS_CONF'])}"
        program.write_text(f'#!/bin/sh\n{settings} exec podman {shlex.join(self._own)} "$@"\n')
        program.chmod(0o755)
        return str(program)

    def make_base(self) -> None:
        """Make the base image, unless it is there."""
        if "true" in self("images", f"--filter=reference={BASE}", "--format=true"):
            return
        archive = self.folder / "base.tar"
        sources = sorted(Path("/etc/apt").glob("sources.list.d/*.sources"))
        subprocess.run(
            ["mmdebstrap", "--variant=minbase", "--quiet", "--include=ca-certificates",
             SUITE, archive, *(sources or [Path("/etc/apt/sources.list")])],
            check=True, timeout=5 * MINUTE,
        )  # fmt: skip
        self("import", '--change=CMD=["bash"]', str(archive), BASE)
        archive.unlink()

    def build(self, name: str, context: Path, *options: str) -> None:
        """Build an image of this name."""
        self(
            "build", "--pull=never", "--network=host", "--format=docker", f"--tag={name}",
            *(f"--ulimit={limit}" for limit in self._limits), *pip_options(), *options,
            str(context), seconds=25 * MINUTE,
        )  # fmt: skip


def pip_options() -> list[str]:
    """Options with which pip is configured in a container as it is here."""
    names = [name for name in os.environ if name.startswith("PIP_")]
    output = subprocess.run(
        ["python3", "-m", "pip", "config", "list"], capture_output=True, text=True, check=False
    ).stdout
    folders = {match[0] for match in re.finditer(r"(?<!\w)/[\w.-]+(/[\w.-]+)*", output)}
    files = ["/etc/pip.conf", "/etc/xdg/pip"]
    there = [path for path in sorted({*folders, *files}) if Path(path).exists()]
    return [
        *(f"--env={name}={os.environ[name]}" for name in names),
        *(f"--volume={path}:{path}:ro" for path in there),
    ]
