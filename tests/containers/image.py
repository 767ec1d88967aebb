"""The image: both of its targets are built, run read-only as nobody's user, asked and stopped."""

# ruff: noqa: T201 (a command prints)

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.containers.engine import MINUTE, Podman

ROOT: Final = Path(__file__).parents[2]
NAME: Final = "streaming-api-under-test"
PORT: Final = 9096
ASKED: Final = {"model": "any", "messages": [{"role": "user", "content": "Say hello."}]}


def run(podman: Podman) -> None:
    """Build and try the targets ``server`` and ``model``."""
    for target in ("server", "model"):
        begun = time.monotonic()
        podman.build(f"streaming-api:{target}", ROOT, f"--target={target}")
        size = json.loads(podman("image", "inspect", f"streaming-api:{target}"))[0]["Size"]
        took = time.monotonic() - begun
        print(f"{target}: built in {took:.0f} s, {size / 2**20:.0f} MiB", flush=True)
        with running(podman, target):
            _look(podman)
            if target == "model":
                _ask()
            _stop(podman)


@contextmanager
def running(podman: Podman, target: str) -> Iterator[None]:
    """A container as the Dockerfile says that it is run."""
    podman(
        "run", "--detach", f"--name={NAME}", "--network=host", "--read-only", "--tmpfs=/tmp",
        "--cap-drop=all", "--security-opt=no-new-privileges", "--stop-timeout=41",
        "--env=STREAMING_API_HOST=127.0.0.1", f"streaming-api:{target}",
    )  # fmt: skip
    try:
        yield
    except BaseException:
        print(podman("logs", NAME, check=False)[-3000:])
        raise
    finally:
        podman("rm", "--force", "--time=1", NAME, check=False)


def _look(podman: Podman) -> None:
    """It becomes healthy, has no rights, and can write nowhere but to its /tmp."""
    deadline = time.monotonic() + MINUTE
    while podman("healthcheck", "run", NAME, check=False).strip() not in {"", "healthy"}:
        assert time.monotonic() < deadline, podman("logs", NAME)
        time.sleep(0.5)
    status = podman("exec", NAME, "cat", "/proc/1/status")
    assert "\nUid:\t10001\t" in status, status
    assert "\nCapEff:\t0000000000000000" in status, status
    refused = podman("exec", NAME, "touch", "/opt/streaming-api/x", check=False)
    assert "Read-only file system" in refused, refused
    podman("exec", NAME, "touch", "/tmp/x")  # noqa: S108 (the container's)
    first = podman("logs", NAME).splitlines()[0]
    assert json.loads(first)["resource"]["service.name"] == "streaming-api", first


def _ask() -> None:
    """The embedded model answers."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{PORT}/v1/chat/completions",
        json.dumps(ASKED).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=2 * MINUTE) as reply:  # noqa: S310 (loopback)
        answer = json.load(reply)
    said = answer["choices"][0]["message"]["content"]
    assert said.strip(), answer
    print(f"model: answered {said.strip()[:60]!r}")


def _stop(podman: Podman) -> None:
    """It stops in order, well before it would be killed."""
    begun = time.monotonic()
    podman("stop", NAME)
    code = json.loads(podman("inspect", NAME))[0]["State"]["ExitCode"]
    assert code == 0, code
    assert time.monotonic() - begun < 41
