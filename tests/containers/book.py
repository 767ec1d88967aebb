"""The operator's book as it stands, under a real systemd, from installing to an upgrade."""

# ruff: noqa: T201 (a command prints)

from __future__ import annotations

import json
import re
import resource
import shlex
import shutil
import subprocess
import sys
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
SOURCE: Final = "/srv/streaming-api"
UNIT: Final = "citadel-llm@streaming-api"
DROP_INS: Final = f"/etc/systemd/system/{UNIT}.service.d"
CONFIG: Final = "/opt/citadel/config/services/streaming-api.yaml"
LOGS: Final = "/var/log/citadel-llm/streaming-api"
URL: Final = "http://127.0.0.1:9096"
GATEWAY: Final = 18123
KEYED_GATEWAY: Final = 18124
"""The ports of the fake gateways, which are not in the container but share its network."""
GATEWAY_KEY: Final = "sk-in-a-credential"
"""What the second one wants."""
ASKED: Final = json.dumps(
    {
        "model": "paced",
        "max_tokens": 200,
        "stream": True,
        "messages": [{"role": "user", "content": "Hello"}],
    }
)
LEFT_OUT: Final = shutil.ignore_patterns(
    ".*", "__pycache__", "*.egg-info", "build", "dist", "node_modules"
)
TRIED: Final = {
    "openssl rand -hex 32": "keep_secrets",
    "printf %s KEY | sha256sum": "configure",
    "systemctl reload citadel-llm@streaming-api": "rotate",
    "streaming-api check --online": "find_out_why",
    "streaming-api check": "configure",
    "streaming-api selftest": "trace_and_measure",
    "systemctl edit citadel-llm@streaming-api": "renew_a_certificate",
    "systemctl start": "activate",
    "systemctl stop": "trace_and_measure",
    "kill -USR1 PID": "find_out_why",
    "systemctl kill --kill-whom=main --signal=SIGUSR2 citadel-llm@streaming-api": "replace_workers",
    "journalctl -u": "Machine.logged",
    "chgrp ssl-cert": "renew_a_certificate",
    "pip install 'streaming-api[otel]'": "trace_and_measure",
    "pip install 'streaming-api[workers]'": "install",
    "pip install --upgrade": "upgrade",
    "make containers": "this",
    "make test": "tests/integration/test_install.py",
}
"""Commands in the book's running text, and what runs them."""
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

    def __call__(self, command: str, *, check: bool = True) -> str:
        """Run a line of root's shell."""
        print(f"# {command}", flush=True)
        return self.podman(
            "exec", f"--workdir={SOURCE}", NAME, "sh", "-ec", command,
            check=check, seconds=15 * MINUTE,
        )  # fmt: skip

    def until(self, command: str, pattern: str) -> str:
        """Run it again and again, until what it writes matches."""
        deadline = time.monotonic() + MINUTE
        while not re.search(pattern, found := self(command, check=False)):
            assert time.monotonic() < deadline, f"{command}: {found[-3000:]}"
            time.sleep(0.5)
        return found

    def logged(self, pattern: str) -> None:
        """Wait until the journal says something of the service."""
        self.until(f"journalctl -u {UNIT} -o cat --no-pager", pattern)

    def write(self, path: str, text: str) -> None:
        """Write a file."""
        self(f"mkdir -p {Path(path).parent}; printf %s {shlex.quote(text)} > {path}")

    def status_of(self, key: str, path: str = "/streaming/status") -> str:
        """The HTTP status that a key gets."""
        return self(f"curl -s -o /dev/null -w '%{{http_code}}' -H 'X-Api-Key: {key}' {URL}{path}")


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
            adapt(here)
            yield here
        except BaseException:
            print(podman("exec", NAME, "journalctl", "-n", "60", "--no-pager", check=False))
            raise
        finally:
            podman("rm", "--force", "--time=1", NAME, check=False)


def adapt(here: Machine) -> None:
    """Ask for no more descriptors than this container has; let mounts propagate, as on a machine.

    systemd mounts each service's credentials in a namespace of its own, from where they propagate.
    """
    limit = min(resource.getrlimit(resource.RLIMIT_NOFILE)[1], 65536)
    here.write(f"{DROP_INS}/container.conf", f"[Service]\nLimitNOFILE={limit}\n")
    here("mount --make-rshared /")


@contextmanager
def gateway() -> Iterator[None]:
    """Model servers for the container, on this machine's loopback."""
    commands = (
        ["tests.bench.emitter", str(GATEWAY)],
        ["tests.fakes.upstream", f"--port={KEYED_GATEWAY}", f"--key={GATEWAY_KEY}", "--tokens=3"],
    )
    processes = [subprocess.Popen([sys.executable, "-m", *words], cwd=ROOT) for words in commands]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def run(podman: Podman) -> None:
    """Follow the book."""
    with machine(podman) as here, gateway():
        install(here)
        find_out_why(here)
        rotate(here)
        keep_secrets(here)
        rotate_logs(here)
        upgrade(here)
        activate(here)
        renew_a_certificate(here)
        replace_workers(here)
        trace_and_measure(here)


def install(here: Machine) -> None:
    """The first hour, line by line."""
    for command in listed("The first hour"):
        here(command)
    here(f"systemctl is-active {UNIT}")


def configure(
    here: Machine, gateway_port: int, *keys: tuple[str, str], **sections: dict[str, object]
) -> None:
    """Write the configuration: the keys, by what they are, with their scopes, and what else."""
    rows = []
    for key, scopes in keys:
        digest = here(f"printf %s {key} | sha256sum").split()[0]
        rows.append({"name": f"key-{key}", "sha256": digest, "scopes": scopes.split()})
    document = {
        "monitoring": {"api_gateway_endpoint": f"http://127.0.0.1:{gateway_port}"},
        **sections,
        "security": {"api_keys": rows, **sections.get("security", {})},
    }
    here.write(CONFIG, json.dumps(document))
    here(f"/opt/citadel/env/bin/streaming-api check --config {CONFIG}")


def find_out_why(here: Machine) -> None:
    """The gateway is gone: which answers failed, and why, and whose they were."""
    configure(here, 9, ("one", "chat watch"), ("ops", "admin watch"))
    here(f"systemctl restart {UNIT}")
    here(f"curl -s -H 'X-Api-Key: one' {URL}/v1/chat/completions -d {shlex.quote(ASKED)}")
    here.logged(r"answer \S+ of key-one .* ended: error \(upstream_unreachable\)")
    assert here.status_of("nobody") == "401"
    failed, refused = listed("Which answers failed, and why[?]")
    assert "of key-one by" in here(failed)
    here.until(refused, "1 invalid_api_key from 127.0.0.1")
    (read_usage,) = listed("Who uses what")
    usage = json.loads(here(f"KEY=ops; {read_usage}"))
    (row,) = (row for row in usage["keys"] if row["key"] == "key-one")
    assert (row["answers"], row["failed"]) == (1, 1), row
    ready = here(f"curl -s {URL}/readyz")
    assert "Connection refused" in ready, ready
    checked = here(
        f"/opt/citadel/env/bin/streaming-api check --online --config {CONFIG}", check=False
    )
    assert "ERROR: monitoring.api_gateway_endpoint does not answer" in checked, checked
    configure(here, GATEWAY, ("one", "chat watch"), ("ops", "admin watch"))
    here(f"systemctl reload {UNIT}")
    here.logged("gateway is up")
    here("kill -USR1 $(systemctl show --property=MainPID --value " + UNIT + ")")
    here.logged("what this process is doing")


def rotate(here: Machine) -> None:
    """A key without a gap: the new one beside the old, then without it."""
    assert (here.status_of("one"), here.status_of("two")) == ("200", "401")
    here.write(CONFIG, "service: {port: none}")
    here(f"systemctl reload {UNIT}")
    here.logged(rf"{CONFIG}:1: service\.port: found")
    assert here.status_of("one") == "200"
    configure(here, GATEWAY, ("one", "chat watch"), ("two", "chat watch"), ("ops", "admin"))
    here(f"systemctl reload {UNIT}")
    here.until(f"curl -s -H 'X-Api-Key: two' {URL}/streaming/status", "components")
    assert here.status_of("one") == "200"
    configure(here, GATEWAY, ("two", "chat watch"), ("ops", "admin watch"))
    here(f"systemctl reload {UNIT}")
    here.until(f"curl -s -H 'X-Api-Key: one' {URL}/streaming/status", "invalid_api_key")
    assert here.status_of("two") == "200"


def keep_secrets(here: Machine) -> None:
    """Keys in files that systemd hands out: used, and in no environment or list of processes."""
    folder = "/etc/credstore/citadel-llm-streaming-api"
    assert f"{folder}.api_keys" in BOOK
    assert f"{folder}.api_gateway_key" in BOOK
    key = here("openssl rand -hex 32").strip()
    digest = here(f"printf %s {key} | sha256sum").split()[0]
    row = {"name": "key-three", "sha256": digest, "scopes": ["chat", "watch"]}
    here("install -d -m 700 /etc/credstore")
    here.write(f"{folder}.api_keys", json.dumps([row]))
    here.write(f"{folder}.api_gateway_key", GATEWAY_KEY + "\n")
    configure(here, KEYED_GATEWAY, ("two", "chat watch"))
    here(f"systemctl restart {UNIT}")
    asked = f"{URL}/v1/chat/completions -d {shlex.quote(ASKED)}"
    answer = here(f"curl -sS -H 'X-Api-Key: {key}' {asked}")
    assert answer.rstrip().endswith("data: [DONE]"), answer
    assert here.status_of("two") == "401"
    seen = here(f"cat /proc/$(systemctl show --property=MainPID --value {UNIT})/environ")
    seen += here("cat /proc/[0-9]*/cmdline", check=False) + here(f"systemctl show {UNIT}")
    assert GATEWAY_KEY not in seen
    assert digest not in seen
    here(f"rm {folder}.*")
    configure(here, GATEWAY, ("two", "chat watch"), ("ops", "admin watch"))
    here(f"systemctl restart {UNIT}")


def rotate_logs(here: Machine) -> None:
    """logrotate moves the file away, and the next line is in a new one."""
    here("logrotate --force /etc/logrotate.d/citadel-llm")
    here(f"curl -s -H 'X-Api-Key: two' {URL}/v1/chat/completions -d {shlex.quote(ASKED)}")
    here.until(f"cat {LOGS}/streaming-api.log", "of key-two")
    before = here(f"cat {LOGS}/streaming-api.log.1")
    assert "of key-two" not in before


def upgrade(here: Machine) -> None:
    """By the list, while an answer runs: it ends well, and what restarts is the new version."""
    asked = f"curl -sN -H 'X-Api-Key: two' {URL}/v1/chat/completions -d {shlex.quote(ASKED)}"
    *prepare, restart = listed("Upgrades")
    for command in prepare:
        here(command)
    here(f"{asked} > /tmp/answer & sleep 1; {restart}; wait")
    assert here("tail -n 2 /tmp/answer").strip() == "data: [DONE]"
    here(f"curl -fsS {URL}/livez")


def activate(here: Machine) -> None:
    """With the socket of systemd a restart refuses nobody, and two instances serve on one port."""
    comment = (ROOT / "systemd" / "citadel-llm.socket").read_text()
    lines = re.findall(r"^#   (.*)$", comment, re.MULTILINE)
    here.write(f"{DROP_INS}/socket.conf", "\n".join(lines) + "\n")
    here("install -m 644 systemd/citadel-llm.socket /etc/systemd/system/; systemctl daemon-reload")
    here(f"systemctl stop {UNIT}; systemctl start citadel-llm.socket {UNIT}")
    ask = f"curl -s -o /dev/null -w '%{{http_code}}\\n' {URL}/livez"
    here(f"(for n in $(seq 40); do {ask}; sleep 0.1; done > /tmp/codes) & "
         f"systemctl restart {UNIT}; wait")  # fmt: skip
    assert set(here("cat /tmp/codes").split()) == {"200"}
    here(f"cp {CONFIG} {CONFIG.replace('streaming-api.yaml', 'second.yaml')}")
    here(f"cp -r {DROP_INS} {DROP_INS.replace('streaming-api', 'second')}; systemctl daemon-reload")
    second = UNIT.replace("streaming-api", "second")
    here(f"systemctl start {second}; systemctl is-active {UNIT} {second}")
    asked = f"curl -s -H 'X-Api-Key: two' {URL}/v1/chat/completions -d {shlex.quote(ASKED)}"
    here.until(f"{asked} > /dev/null; journalctl -u {second} -o cat", "of key-two by")
    here.until(f"{asked} > /dev/null; journalctl -u {UNIT} -n 2 -o cat", "of key-two by")
    here(f"systemctl stop {second}")


def renew_a_certificate(here: Machine) -> None:
    """The key is readable for a group that the unit is given; new files are found by themselves."""
    folder = "/etc/ssl/streaming-api"
    made = (
        "openssl req -x509 -nodes -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -days 30"
        f" -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1"
        f" -keyout {folder}/key.pem -out {folder}/chain.pem 2>/dev/null;"
        f" chgrp ssl-cert {folder}/key.pem; chmod 640 {folder}/key.pem"
    )
    here(f"groupadd --force --system ssl-cert; mkdir -p {folder}; {made}")
    files: dict[str, object] = {
        "tls_certificate": f"{folder}/chain.pem", "tls_key": f"{folder}/key.pem",
    }  # fmt: skip
    configure(here, GATEWAY, ("two", "chat watch"), security=files)
    (lines,) = re.findall(r"```\n(\[Service\]\nSupplementaryGroups=.*?)```", BOOK, re.DOTALL)
    here.write(f"{DROP_INS}/tls.conf", lines)
    here(f"systemctl daemon-reload; systemctl restart {UNIT}")
    secure = URL.replace("http:", "https:")
    here(f"curl -fsS --cacert {folder}/chain.pem {secure}/livez")
    here(f"rm {folder}/*; {made}")
    here.until(f"curl -fsS --cacert {folder}/chain.pem {secure}/livez", "alive")


def replace_workers(here: Machine) -> None:
    """Two workers over a private store; each is replaced, one after the other."""
    configure(here, GATEWAY, ("two", "chat watch admin"), service={"workers": 2})
    here(f"rm {DROP_INS}/socket.conf; systemctl daemon-reload; systemctl stop citadel-llm.socket")
    here(f"systemctl restart {UNIT}")
    here.logged(r"(?s)(worker-\d serves.*?){2}")
    here(f"systemctl kill --kill-whom=main --signal=SIGUSR2 {UNIT}")
    here.logged(r"(?s)(worker-\d serves.*?){4}")
    assert here.status_of("two") == "200"


def trace_and_measure(here: Machine) -> None:
    """What else the book has operators run."""
    here("/opt/citadel/env/bin/pip install 'streaming-api[otel]'")
    here("/opt/citadel/env/bin/streaming-api selftest")
    here(f"systemctl stop {UNIT}")
    here.logged("stopping: 0 answers run")
