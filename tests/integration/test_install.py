"""Installing by the book: the documented list, and the steps of the Dockerfile, outside of one."""

from __future__ import annotations

import getpass
import grp
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import pytest
import yaml

ROOT: Final = Path(__file__).parents[2]
BOOK: Final = ROOT / "docs" / "operations.md"
MINUTES: Final = 10 * 60
LEFT_OUT: Final = shutil.ignore_patterns(
    ".*", "__pycache__", "*.egg-info", "build", "dist", "node_modules"
)


def listed(heading: str) -> list[str]:
    """The commands of the list under a heading of the book."""
    (block,) = re.findall(rf"## {heading}\n.*?```sh\n(.*?)```", BOOK.read_text(), re.DOTALL)
    return str(block).strip().splitlines()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


class Machine:
    """Folders that stand for those of a machine, and the commands that run there."""

    def __init__(self, folder: Path) -> None:
        self.source = folder / "source"
        shutil.copytree(ROOT, self.source, ignore=LEFT_OUT)
        self.port = free_port()
        self.folder = folder
        self.logs = folder / "var/log/citadel-llm/streaming-api"
        self.places = {
            "/opt/": f"{folder}/opt/", "/etc/": f"{folder}/etc/",
            "/var/log/": f"{folder}/var/log/", ":9096": f":{self.port}",
        }  # fmt: skip
        for name in ("opt", "etc/systemd/system", "etc/logrotate.d", str(self.logs)):
            (folder / name).mkdir(parents=True)

    def placed(self, text: str) -> str:
        """A command or a file with the places of this machine."""
        for there, here in self.places.items():
            text = text.replace(there, here)
        return text

    def run(self, command: str) -> str:
        """Run a line of a shell; fail where it fails. The wheel is built once for all."""
        if command == "make wheel" and [*self.source.glob("dist/*.whl")]:
            return ""
        names = ("PATH", "HOME", "PIP_INDEX_URL", "PIP_CONFIG_FILE", "LANG")
        environ = {name: os.environ[name] for name in names if name in os.environ}
        done = subprocess.run(
            ["sh", "-ec", self.placed(command)], cwd=self.source, env=environ,
            capture_output=True, text=True, timeout=MINUTES, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
        return done.stdout

    def log(self) -> str:
        """The log file of the service as it is now."""
        file = self.logs / "streaming-api.log"
        return file.read_text() if file.exists() else ""

    @contextmanager
    def unit(self, instance: str) -> Iterator[None]:
        """What the unit starts, as systemd would, until it is told to stop."""
        file = self.folder / "etc/systemd/system/citadel-llm@.service"
        text = file.read_text().replace("%i", instance)
        (command,) = re.findall(r"^ExecStart=(.*)$", text, re.MULTILINE)
        manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        manager.settimeout(60)
        address = str(self.folder / "notify")
        manager.bind(address)
        process = subprocess.Popen(
            shlex.split(self.placed(command)),
            cwd="/",
            env={
                "PATH": os.environ["PATH"], "NOTIFY_SOCKET": address,
                "LOGS_DIRECTORY": str(self.logs), "STREAMING_API_PORT": str(self.port),
                "STREAMING_EMBEDDED_MODEL": "none", "STREAMING_DRAIN_DELAY": "0",
            },
        )  # fmt: skip
        (reload,) = re.findall(r"^ExecReload=(.*)$", text, re.MULTILINE)
        self.on_reload = [
            word.replace("$MAINPID", str(process.pid)) for word in shlex.split(reload)
        ]
        try:
            assert b"READY=1" in manager.recv(4096)
            yield
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
        finally:
            manager.close()
            with suppress(ProcessLookupError):
                process.kill()
            process.wait()


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """One for the module: to compile takes a minute."""
    return Machine(tmp_path_factory.mktemp("machine"))


def test_the_first_hour_of_the_book_works_as_it_stands(machine: Machine) -> None:
    folder = machine.folder
    unit = None
    for command in listed("The first hour"):
        if command == "systemctl daemon-reload":
            file = folder / "etc/systemd/system/citadel-llm@.service"
            checked = folder / "citadel-llm@streaming-api.service"
            checked.write_text(machine.placed(file.read_text()))
            machine.run(f"systemd-analyze verify --man=no {checked}")
        elif command.startswith("systemctl enable --now"):
            unit = machine.unit(command.rpartition("@")[2])
            unit.__enter__()
        else:
            machine.run(command)
    assert unit is not None, "nothing was started"
    reload_a_key(machine)
    rotate_the_log(machine)
    *upgrade, restart = listed("Upgrades")
    assert restart == "systemctl restart citadel-llm@streaming-api"
    for command in upgrade:
        machine.run(command)
    unit.__exit__(None, None, None)
    log = (machine.logs / "streaming-api.log.1").read_text().splitlines()
    assert json.loads(log[0])["resource"]["service.name"] == "streaming-api"


def reload_a_key(machine: Machine) -> None:
    """Step 1 of the book: what the unit runs for ``systemctl reload``."""
    digest = machine.run("printf %s KEY | sha256sum").split()[0]
    file = machine.folder / "opt/citadel/config/services/streaming-api.yaml"
    row = {"name": "page", "sha256": digest, "scopes": ["watch"]}
    document = yaml.safe_load(file.read_text())
    file.write_text("service: {port: none}\n")
    subprocess.run(machine.on_reload, check=True)
    until(lambda: f"{file}:1: service.port: found" in machine.log())
    document["security"]["api_keys"] = [row]
    file.write_text(yaml.safe_dump(document))
    subprocess.run(machine.on_reload, check=True)
    until(lambda: "in effect: security.api_keys" in machine.log())


def rotate_the_log(machine: Machine) -> None:
    """What logrotate does each day; the file that it moved away is not written to any more."""
    whole = machine.log()
    text = machine.placed((machine.folder / "etc/logrotate.d/citadel-llm").read_text())
    own = f"su {getpass.getuser()} {grp.getgrgid(os.getgid()).gr_name}"
    conf = machine.folder / "logrotate.conf"
    conf.write_text(text.replace("su root root", own))
    conf.chmod(0o644)
    state = machine.folder / "logrotate.state"
    machine.run(f"PATH=$PATH:/usr/sbin logrotate --force --state {state} {conf}")
    subprocess.run(machine.on_reload, check=True)
    until(lambda: "read again" in machine.log())
    assert (machine.logs / "streaming-api.log.1").read_text() == whole


def until(condition: Callable[[], bool]) -> None:
    """Wait until the condition holds."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_the_steps_of_the_image_can_be_taken(machine: Machine) -> None:
    """Those that build and install, but for Debian's packages; then what the image runs."""
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    build = text.partition("AS build\n")[2].partition("FROM build AS build-model")[0]
    for command in re.findall(r"^RUN (.*)$", build, re.MULTILINE):
        if "apt-get" not in command:
            machine.run(command)
    (entry,) = re.findall(r"^ENTRYPOINT (.*)$", text, re.MULTILINE)
    (check,) = re.findall(r"^HEALTHCHECK .*CMD (.*)$", text, re.MULTILINE)
    (start,) = re.findall(r"^CMD (.*)$", text, re.MULTILINE)
    environ = {
        "STREAMING_API_PORT": str(machine.port), "STREAMING_EMBEDDED_MODEL": "none",
        "PYTHONDONTWRITEBYTECODE": "1", "STREAMING_API_HOST": "0.0.0.0",
    }  # fmt: skip
    process = subprocess.Popen(
        [*map(machine.placed, json.loads(entry)), *json.loads(start)], env=environ
    )
    try:
        probe = [machine.placed(word) for word in json.loads(check)]
        deadline = time.monotonic() + 60
        while subprocess.run(
            probe, env=environ, capture_output=True, timeout=60, check=False
        ).returncode:
            assert time.monotonic() < deadline
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()


def test_the_image_runs_as_nobody_special_and_compose_says_so() -> None:
    text = (ROOT / "Dockerfile").read_text()
    for target in ("server", "model"):
        stage = text.partition(f" AS {target}\n")[2].partition("\nFROM ")[0]
        assert re.findall(r"^USER (.*)$", stage, re.MULTILINE)[-1] == "10001", target
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    assert set(services) == {"nginx", "streaming-api", "prometheus", "alertmanager", "grafana"}
    ours = services["streaming-api"]
    assert ours["read_only"] is True
    assert ours["stop_grace_period"] == "41s"
    for service in services.values():
        for volume in service.get("volumes", []):
            source = volume.partition(":")[0]
            assert not source.startswith(".") or (ROOT / source).exists(), source


def test_grafana_finds_prometheus_and_the_dashboard_where_compose_puts_them() -> None:
    grafana = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]["grafana"]
    places = dict(volume.split(":")[:2] for volume in grafana["volumes"])
    conf = ROOT / "conf/grafana"
    (provider,) = yaml.safe_load((conf / "dashboards/streaming-api.yml").read_text())["providers"]
    folder = Path(provider["options"]["path"])
    assert Path(places["./conf/grafana-dashboard.json"]).parent == folder
    (source,) = yaml.safe_load((conf / "datasources/prometheus.yml").read_text())["datasources"]
    dashboard = json.loads((ROOT / "conf/grafana-dashboard.json").read_text())
    (variable, *_) = dashboard["templating"]["list"]
    assert (variable["type"], variable["query"]) == ("datasource", source["type"])
    assert source["isDefault"]


@pytest.mark.skipif(
    shutil.which("amtool") is None, reason="apt-get install prometheus-alertmanager"
)
def test_alertmanager_reads_its_file() -> None:
    subprocess.run(["amtool", "check-config", ROOT / "conf/alertmanager.yml"], check=True)
