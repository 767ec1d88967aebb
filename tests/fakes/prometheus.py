"""A real Prometheus and a real Alertmanager on loopback, for tests; each in a folder of its own."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import aiohttp
import pytest

from tests.clients import http
from tests.lifecycle import Lifecycle

READY_SECONDS = 30.0
STOP_SECONDS = 10.0
ATTEMPTS = 3

ALWAYS_FIRING = """\
groups:
  - name: test
    interval: 1s
    rules:
      - alert: AlwaysFiring
        expr: vector(1)
        labels: {severity: critical}
        annotations: {summary: "it is on <b>purpose</b>"}
      - alert: StillPending
        expr: vector(1)
        for: 1h
"""


class _Server(Lifecycle):
    """One server process that answers `/-/ready`; the port is free when it is chosen."""

    program: str
    package: str

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = 0
        self._process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        """What the process wrote so far."""
        return (self.folder / "log").read_text(errors="replace")

    def arguments(self) -> list[str]:
        """Write the configuration and return the command line without the program."""
        raise NotImplementedError

    async def start(self) -> None:
        """Start it and wait until it is ready; skips the test where it is not installed."""
        program = shutil.which(self.program)
        if program is None:
            pytest.skip(f"{self.program} is not installed: apt-get install {self.package}")
        self.folder.mkdir(parents=True, exist_ok=True)
        for _ in range(ATTEMPTS):
            self.port = free_port()
            with (self.folder / "log").open("ab") as log:
                self._process = await asyncio.create_subprocess_exec(
                    program, *self.arguments(), stdout=log, stderr=log, cwd=self.folder
                )
            if await self._is_ready():
                return
            await self.stop()
        message = f"{self.program} did not become ready:\n{self.log}"
        raise RuntimeError(message)

    async def stop(self) -> None:
        """End the process and wait for its end."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.returncode is None:
            process.terminate()
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()

    async def _is_ready(self) -> bool:
        """Poll until it is ready; False when the process ends or time is up."""
        deadline = time.monotonic() + READY_SECONDS
        async with aiohttp.ClientSession() as session:
            while (
                time.monotonic() < deadline and self._process and self._process.returncode is None
            ):
                try:
                    async with session.get(f"{self.url}/-/ready") as response:
                        if response.ok:
                            return True
                except aiohttp.ClientError:
                    pass
                await asyncio.sleep(0.05)
        return False


class RealPrometheus(_Server):
    """Debian's prometheus, which scrapes itself (job `self`) and the targets each second.

    Args:
        folder: Its own; configuration, data and log are in it.
        targets: `host:port` of further expositions, scraped as job `target` at `/metrics`.
        rules: A rule file.
        alertmanagers: `host:port` of those that are sent alerts.
        credential: The bearer token that the targets want.
        external: The labels that it adds to alerts, of which `replica` is taken away again.
    """

    program = package = "prometheus"

    def __init__(
        self,
        folder: Path,
        targets: Sequence[str] = (),
        rules: str = ALWAYS_FIRING,
        alertmanagers: Sequence[str] = (),
        credential: str = "none",
        external: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(folder)
        self._credential = credential
        self._external = json.dumps(external or {})
        self._targets = list(targets)
        self._rules = rules
        self._alertmanagers = list(alertmanagers)

    def arguments(self) -> list[str]:
        (self.folder / "rules.yml").write_text(self._rules)
        (self.folder / "prometheus.yml").write_text(f"""\
global:
  scrape_interval: 1s
  scrape_timeout: 1s
  evaluation_interval: 1s
  external_labels: {self._external}
rule_files: [rules.yml]
scrape_configs:
  - job_name: self
    static_configs: [{{targets: ["127.0.0.1:{self.port}"]}}]
  - job_name: target
    authorization: {{credentials: {self._credential}}}
    static_configs: [{{targets: {self._targets}}}]
alerting:
  alert_relabel_configs: [{{action: labeldrop, regex: replica}}]
  alertmanagers:
    - static_configs: [{{targets: {self._alertmanagers}}}]
""")
        return [
            f"--config.file={self.folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={self.folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{self.port}",
            "--rules.alert.resend-delay=1s",
            "--log.level=warn",
        ]


class RealAlertmanager(_Server):
    """Debian's prometheus-alertmanager, which notifies one webhook at once, and no other machine.

    Args:
        folder: Its own; configuration, data and log are in it.
        webhook: URL that is sent every alert; None for nobody.
    """

    program = package = "prometheus-alertmanager"

    def __init__(self, folder: Path, webhook: str | None = None) -> None:
        super().__init__(folder)
        self._webhook = webhook

    def arguments(self) -> list[str]:
        receivers = f"webhook_configs: [{{url: '{self._webhook}'}}]" if self._webhook else ""
        (self.folder / "alertmanager.yml").write_text(f"""\
route: {{receiver: test, group_wait: 0s, group_interval: 1s, repeat_interval: 1h}}
receivers:
  - name: test
    {receivers}
""")
        return [
            f"--config.file={self.folder / 'alertmanager.yml'}",
            f"--storage.path={self.folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{self.port}",
            "--cluster.listen-address=",
            "--log.level=warn",
        ]


async def silence(manager: RealAlertmanager, alertname: str) -> None:
    """Silence an alert for ever."""
    body = {
        "matchers": [{"name": "alertname", "value": alertname, "isRegex": False}],
        "startsAt": "2020-01-01T00:00:00Z", "endsAt": "2099-01-01T00:00:00Z",
        "createdBy": "test", "comment": "test",
    }  # fmt: skip
    async with http(manager.url) as client:
        assert (await client.post("/api/v2/silences", json=body)).is_success


def free_port() -> int:
    """Return a port of 127.0.0.1 that was free just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
