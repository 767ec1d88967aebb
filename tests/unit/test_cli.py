"""The command line: which command runs with which configuration, what is printed, how it exits."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from streaming_api import cli
from streaming_api.build import build
from streaming_api.config import SETTINGS, Source, StreamingConfig

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data"
STARTED = 7
PROCESS_LIMIT = 60
"""Seconds a command may take on a busy machine before the test gives up."""


@pytest.fixture(autouse=True)
def _empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that the machine sets for a server reaches the tests."""
    for name in (row.env for row in SETTINGS.values()):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("STREAMING_API_CONFIG", raising=False)
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> dict[str, StreamingConfig]:
    """The configuration each command was started with, by the name of its module."""
    configs: dict[str, StreamingConfig] = {}

    def serve(source: Source) -> int:
        configs["service"] = source.config
        return STARTED

    def run(config: StreamingConfig) -> int:
        configs["selftest"] = config
        return STARTED

    for function, name in ((serve, "serve"), (run, "selftest")):
        module = ModuleType(f"streaming_api.{name}")
        setattr(module, function.__name__, function)
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return configs


def command(*words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """What the command does as a process of its own."""
    return subprocess.run(
        [sys.executable, *words],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], **environ},
        capture_output=True,
        text=True,
        timeout=PROCESS_LIMIT,
        check=False,
    )


class TestServe:
    """The default command."""

    @pytest.mark.parametrize("words", [[], ["serve"], ["--port", "0"], ["serve", "--port=0"]])
    def test_serve_is_what_runs_without_a_command(
        self, started: dict[str, StreamingConfig], words: list[str]
    ) -> None:
        assert cli.main(words) == STARTED
        assert started["service"].port == (0 if len("".join(words)) > len("serve") else 9096)

    def test_options_of_serve_win_over_environment_and_file(
        self, started: dict[str, StreamingConfig], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("STREAMING_API_PORT", "1")
        monkeypatch.setenv("STREAMING_API_CPU_CORES", "3")
        file = str(DATA / "streaming-api.yaml")
        cli.main(["--config", file, "--host", "::1", "--port", "2", "--log-level", "debug"])
        config = started["service"]
        assert (config.host, config.port, config.log_level) == ("::1", 2, "DEBUG")
        assert (config.cpu_cores, config.workers) == (3, 2)

    def test_the_variable_names_the_file_where_no_option_does(
        self, started: dict[str, StreamingConfig], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("STREAMING_API_CONFIG", str(DATA / "streaming-api.yaml"))
        cli.main([])
        assert started["service"].workers == 2
        monkeypatch.setenv("STREAMING_API_CONFIG", "")
        cli.main([])
        assert started["service"].workers == 1

    def test_the_real_environment_wins_over_the_environment_file(
        self, started: dict[str, StreamingConfig], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        file = tmp_path / "x.env"
        file.write_text("STREAMING_API_PORT=1\nSTREAMING_BATCH_SIZE='2'\n")
        monkeypatch.setenv("STREAMING_API_PORT", "3")
        cli.main(["serve", "--env-file", str(file)])
        assert (started["service"].port, started["service"].batch_size) == (3, 2)

    def test_nothing_starts_with_a_wrong_configuration(
        self, started: dict[str, StreamingConfig], capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert cli.main(["--port", "70000", "--log-level", "loud"]) == 2
        assert not started
        output = capsys.readouterr()
        assert output.out == ""
        assert [line.partition(": found")[0] for line in output.err.splitlines()] == [
            "command line: service.port",
            "command line: performance.log_level",
        ]

    @pytest.mark.parametrize("words", [["--port", "x"], ["fly"], ["check", "--port", "1"]])
    def test_a_wrong_command_line_exits_2(
        self, started: dict[str, StreamingConfig], words: list[str]
    ) -> None:
        with pytest.raises(SystemExit) as exit_:
            cli.main(words)
        assert exit_.value.code == 2
        assert not started


def test_selftest_runs_with_the_configuration(started: dict[str, StreamingConfig]) -> None:
    """The self-test gets the same configuration as the server would."""
    assert cli.main(["selftest", "--env-file", str(DATA / "streaming.env")]) == STARTED
    assert started["selftest"].message_size_limit == 1048576


class TestCheck:
    """Prints what is in effect, or what is wrong."""

    def test_check_prints_path_value_and_origin_in_columns(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert cli.main(["check", "--config", str(DATA / "streaming-api.yaml")]) == 0
        table, _, rest = capsys.readouterr().out.partition("\n\n")
        lines = table.splitlines()
        assert rest.splitlines()[0] == f"build: {build()}"
        assert len(lines) == len(SETTINGS)
        assert len({line.index(line.split()[1]) for line in lines}) == 1
        port = next(line for line in lines if line.startswith("service.port "))
        assert port.split() == ["service.port", "9096", "streaming-api.yaml:4"]

    def test_check_prints_no_secret(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("API_GATEWAY_KEY", "hunter2")
        assert cli.main(["check"]) == 0
        output = capsys.readouterr().out
        assert "hunter2" not in output
        assert "monitoring.api_gateway_key" in output
        assert "(set)" in output

    def test_problems_of_every_file_go_to_stderr_one_per_line(
        self, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        (tmp_path / "a.yaml").write_text("service: {port: x, prot: 1}\n")
        (tmp_path / "a.env").write_text("hello\n")
        words = ["check", "--config", str(tmp_path / "a.yaml"), "--env-file"]
        assert cli.main([*words, str(tmp_path / "a.env")]) == 2
        output = capsys.readouterr()
        assert output.out == ""
        assert [line.split(": ")[0] for line in output.err.splitlines()] == [
            f"{tmp_path}/a.env:1",
            f"{tmp_path}/a.yaml:1",
            f"{tmp_path}/a.yaml:1",
        ]

    def test_check_as_a_process_exits_with_the_status(self, tmp_path: Path) -> None:
        files = ["--config", str(DATA / "streaming-api.yaml")]
        files += ["--env-file", str(DATA / "streaming.env")]
        good = command("-m", "streaming_api", "check", *files)
        assert (good.returncode, good.stderr) == (0, "")
        bad = command("-m", "streaming_api", "check", "--config", str(tmp_path / "none.yaml"))
        assert (bad.returncode, bad.stdout) == (2, "")
        assert bad.stderr.endswith("none.yaml: cannot be read: No such file or directory\n")

    def test_check_imports_no_server(self) -> None:
        code = (
            "import sys; from streaming_api.cli import main; main(['check']); "
            "print({'aiohttp', 'uvloop', 'asyncio'} & set(sys.modules))"
        )
        assert command("-c", code).stdout.splitlines()[-1] == "set()"


def test_version_and_help_say_what_this_is(capsys: pytest.CaptureFixture[str]) -> None:
    """Neither needs a configuration."""
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("streaming-api ")
    with pytest.raises(SystemExit) as exit_:
        cli.main(["--help"])
    assert exit_.value.code == 0
    output = capsys.readouterr().out
    assert all(word in output for word in ("serve", "check", "selftest", "--version"))
