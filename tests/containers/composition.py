"""``compose.yaml`` by podman-compose: a chat through nginx, a scrape, an alert that is shown.

Three things differ from the file: images that a registry would send are made of Debian's packages;
Grafana is none of these, and is left out; and the network is nothing but loopback, so no port is
published.
"""

# ruff: noqa: T201 (a command prints)

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
import urllib.parse
import venv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import yaml

from tests.containers.book import ASKED, GATEWAY
from tests.containers.engine import BASE, MINUTE, Podman

ROOT: Final = Path(__file__).parents[2]
REQUIREMENTS: Final = Path(__file__).with_name("requirements.txt")
PROJECT: Final = "composed"
STAND_INS: Final = f"""\
FROM {BASE} AS packages
RUN apt-get update && apt-get install --yes --no-install-recommends \\
    nginx prometheus prometheus-alertmanager \\
 && rm /etc/nginx/sites-enabled/default \\
 && mkdir /prometheus /alertmanager && chown nobody /prometheus /alertmanager

FROM packages AS nginx
CMD ["nginx", "-g", "daemon off;"]

FROM packages AS prometheus
USER nobody
WORKDIR /prometheus
ENTRYPOINT ["prometheus"]
CMD ["--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/prometheus"]

FROM packages AS alertmanager
USER nobody
WORKDIR /alertmanager
ENTRYPOINT ["prometheus-alertmanager"]
CMD ["--config.file=/etc/alertmanager/alertmanager.yml", "--storage.path=/alertmanager"]
"""
"""They start as the images do that they stand for."""


def run(podman: Podman) -> None:
    """Compose, ask, look, and stop."""
    podman.build("streaming-api:server", ROOT, "--target=server")
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "Dockerfile").write_text(STAND_INS)
        for name in ("nginx:stable", "prom/prometheus:latest", "prom/alertmanager:latest"):
            target = name.partition(":")[0].rpartition("/")[2]
            podman.build(name, Path(folder), f"--target={target}")
    with composed(podman) as here, here.gateway():
        here.until("livez", "alive")
        here.until("readyz", '"ready"')
        answer = here.ask("v1/chat/completions", "--no-buffer", "--data", ASKED)
        assert answer.rstrip().endswith("data: [DONE]"), answer[-1000:]
        log = podman("exec", f"{PROJECT}_nginx_1", "cat", "/var/log/nginx/streaming-api.log")
        assert re.search(r'"POST /v1/chat/completions" 200 .* 127\.0\.0\.1:9096 \w{32}\n', log), log
        here.until_query('up{job="streaming-api"}', "1")
        here.until_query('streaming_answers_ended_total{outcome="stop"}', "1")
        here.until("streaming/status", r'"alertmanager":{"state":"up"')
        for _ in range(30):
            refused = here.ask("streaming/status", host="of.somebody.else")
            assert "host_not_allowed" in refused, refused
        here.until_logged("alerts posted by no key from 127.0.0.1")
        shown = here.ask("streaming/sse/alerts", "--no-buffer", "--max-time", "2")
        assert "StreamingConnectionsRefused" in shown, shown
        here.compose("stop")
        state = json.loads(podman("inspect", f"{PROJECT}_streaming-api_1"))[0]["State"]
        assert state["ExitCode"] == 0, state


class Composition:
    """What ``compose.yaml`` has started."""

    def __init__(self, podman: Podman, folder: Path) -> None:
        self.podman = podman
        self.folder = folder
        self._compose = _podman_compose(podman.folder / "compose")
        self._network: list[str] = []

    def compose(self, *words: str, check: bool = True) -> None:
        """Run podman-compose."""
        print(f"# podman-compose {shlex.join(words)}", flush=True)
        options = ["--podman-path", self.podman.command(self.folder), "--in-pod=false"]
        done = subprocess.run(
            [self._compose, *options, f"--project-name={PROJECT}", *words],
            cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env=os.environ | {"API_GATEWAY_ENDPOINT": f"http://127.0.0.1:{GATEWAY}"},
            timeout=5 * MINUTE, check=False,
        )  # fmt: skip
        assert not check or done.returncode == 0, done.stdout

    def inside(self, *command: str) -> list[str]:
        """Return a command of this machine as one that runs in the network of the composition."""
        if not self._network:
            state = json.loads(self.podman("inspect", f"{PROJECT}_nginx_1"))[0]["State"]
            self._network = ["nsenter", f"--target={state['Pid']}", "--net"]
        return [*self._network, *command]

    def ask(self, path: str, *options: str, host: str = "chat.example.org") -> str:
        """Ask nginx, as a browser would."""
        return self._get(f"http://127.0.0.1/{path}", "--header", f"Host: {host}", *options)

    def _get(self, url: str, *options: str) -> str:
        command = self.inside("curl", "--silent", "--show-error", "--max-time", "60", *options, url)
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        return done.stdout

    def until(self, path: str, text: str) -> None:
        """Wait until a reply holds a text."""
        _wait(lambda: self.ask(path), text)

    def until_query(self, expression: str, value: str) -> None:
        """Wait until Prometheus has this value."""
        query = urllib.parse.urlencode({"query": expression})
        _wait(lambda: self._get(f"http://127.0.0.1:9090/api/v1/query?{query}"), f',"{value}"]')

    def until_logged(self, text: str) -> None:
        """Wait until our service has logged something."""
        _wait(lambda: self.podman("logs", f"{PROJECT}_streaming-api_1"), text)

    @contextmanager
    def gateway(self) -> Iterator[None]:
        """A model server, where the composition looks for it."""
        command = self.inside(sys.executable, "-m", "tests.bench.emitter", str(GATEWAY))
        process = subprocess.Popen(command, cwd=ROOT)
        try:
            yield
        finally:
            process.kill()
            process.wait()


@contextmanager
def composed(podman: Podman) -> Iterator[Composition]:
    """Start everything, with nothing around it but loopback."""
    document = yaml.safe_load((ROOT / "compose.yaml").read_text())
    services = document["services"]
    del services["grafana"], services["nginx"]["ports"], services["streaming-api"]["build"]
    services["nginx"]["network_mode"] = "none"
    services["streaming-api"]["image"] = "streaming-api:server"
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "conf").symlink_to(ROOT / "conf")
        for service in services.values():
            service["pull_policy"] = "never"
        (Path(folder) / "compose.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
        here = Composition(podman, Path(folder))
        try:
            here.compose("up", "--detach")
            yield here
        except BaseException:
            for name in services:
                print(name, podman("logs", f"{PROJECT}_{name}_1", check=False)[-3000:])
            raise
        finally:
            here.compose("down", "--volumes", "--timeout=1", check=False)


def _wait(look: Callable[[], str], text: str) -> None:
    """Look again and again until a text is there; an alert takes a minute."""
    deadline = time.monotonic() + 3 * MINUTE
    while text not in (found := look()):
        assert time.monotonic() < deadline, f"no {text!r} in {found[-3000:]}"
        time.sleep(0.5)


def _podman_compose(folder: Path) -> str:
    """Install podman-compose, unless it is there; return the program."""
    program = folder / "bin" / "podman-compose"
    if not program.exists():
        venv.create(folder, with_pip=True)
        subprocess.run(
            [folder / "bin/pip", "install", "--quiet", "--requirement", REQUIREMENTS], check=True
        )
    return str(program)
