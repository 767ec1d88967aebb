"""The operator's book as it stands, under a real systemd, from installing to an upgrade."""

# ruff: noqa: T201 (a command prints)

from __future__ import annotations

import re
import resource
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.containers.engine import BASE, MINUTE, Podman, pip_options

ROOT: Final = Path(__file__).parents[2]
BOOK: Final = (ROOT / "docs" / "operations.md").read_text()
NAME: Final = "streaming-api-by-the-book"
SOURCE: Final = "/root/streaming-api"
UNIT: Final = "citadel-llm@streaming-api"
LEFT_OUT: Final = shutil.ignore_patterns(
    ".*", "__pycache__", "*.egg-info", "build", "dist", "node_modules"
)
MACHINE: Final = f"""\
FROM {BASE}
RUN apt-get update && apt-get install --yes systemd systemd-sysv logrotate {{packages}}
CMD ["/lib/systemd/systemd"]
"""


def listed(heading: str) -> list[str]:
    """The commands of the list under a heading."""
    (block,) = re.findall(rf"## {heading}\n.*?```sh\n(.*?)```", BOOK, re.DOTALL)
    return str(block).strip().splitlines()


def needed() -> list[str]:
    """The packages that the first paragraph names."""
    first = BOOK.partition("## The first hour\n")[2].partition("```sh")[0]
    return re.findall(r"`([a-z0-9.-]+)`", first)


class Machine:
    """A Debian with systemd as process 1."""

    def __init__(self, podman: Podman) -> None:
        self.podman = podman

    def __call__(self, command: str, *, check: bool = True, seconds: float = 15 * MINUTE) -> str:
        """Run a line of a root's shell."""
        return self.podman(
            "exec", f"--workdir={SOURCE}", NAME, "sh", "-ec", command, check=check, seconds=seconds
        )

    def fit_limits(self) -> None:
        """Ask for no more descriptors than this container itself may have."""
        limit = min(resource.getrlimit(resource.RLIMIT_NOFILE)[1], 65536)
        folder = f"/etc/systemd/system/{UNIT}.service.d"
        line = f"printf '[Service]\\nLimitNOFILE={limit}\\n' > {folder}/limits.conf"
        self(f"mkdir -p {folder}; {line}")

    def until(self, command: str, pattern: str) -> str:
        """Run it again and again, until what it writes matches."""
        deadline = time.monotonic() + MINUTE
        while not re.search(pattern, said := self(command, check=False)):
            assert time.monotonic() < deadline, f"{command}: {said[-3000:]}"
            time.sleep(0.2)
        return said


@contextmanager
def machine(podman: Podman) -> Iterator[Machine]:
    """Boot one, with a checkout of the project."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "Dockerfile").write_text(MACHINE.format(packages=" ".join(needed())))
        podman.build("a-machine", Path(folder))
        source = Path(folder) / "source"
        shutil.copytree(ROOT, source, ignore=LEFT_OUT)
        podman(
            "run", "--detach", f"--name={NAME}", "--systemd=always", "--privileged",
            "--network=host", *pip_options(), "a-machine",
        )  # fmt: skip
        try:
            podman("cp", str(source), f"{NAME}:{SOURCE}")
            here = Machine(podman)
            here.until("systemctl is-system-running", "running|degraded")
            here.fit_limits()
            yield here
        except BaseException:
            print(podman("exec", NAME, "journalctl", "-n", "60", "--no-pager", check=False))
            raise
        finally:
            podman("rm", "--force", "--time=1", NAME, check=False)


def run(podman: Podman) -> None:
    """Follow the book."""
    with machine(podman) as here:
        install(here)


def install(here: Machine) -> None:
    """The first hour, line by line."""
    for command in listed("The first hour"):
        print(f"# {command}", flush=True)
        here(command)
    here(f"systemctl is-active {UNIT}")
