"""The ``streaming-api`` command: reads arguments and configuration, and hands them over.

The server is imported only by the commands that run it: ``check`` works, quickly, without it.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from streaming_api.build import build
from streaming_api.config import (
    CONFIG_VARIABLE,
    ConfigError,
    Loaded,
    Problem,
    Source,
    StreamingConfig,
    effective,
    load,
    read_env_file,
)

EXIT_BAD_CONFIGURATION = 2
"""Exit status when the command line or the configuration cannot be used; nothing was started."""

EXIT_UNREACHABLE = 1
"""Exit status of ``check --online`` when an endpoint does not answer."""

_OVERRIDES = ("host", "port", "log_level")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command in `argv` (the process's own by default); return the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or (words[0].startswith("-") and words[0] not in {"-h", "--help", "--version"}):
        words.insert(0, "serve")
    if words[0] == "--version":
        print(_version())
        return 0
    arguments = _parser().parse_args(words)
    try:
        loaded = _load(arguments, os.environ)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return EXIT_BAD_CONFIGURATION

    def read() -> StreamingConfig:
        return _load(arguments, os.environ).config

    online = getattr(arguments, "online", False)
    return _run(arguments.command, loaded, read, online=online)


def _check(loaded: Loaded, *, online: bool) -> int:
    """Print the settings in effect, and what ``serve`` would stumble over."""
    from streaming_api.preflight import warnings

    print(effective(loaded))
    print(f"\nbuild: {build()}")
    for warning in warnings(loaded.config, os.environ):
        print(f"\nWARNING: {warning}")
    if not online:
        return 0
    from streaming_api.online import unreachable

    missing = unreachable(loaded.config)
    for sentence in missing:
        print(f"\nERROR: {sentence}")
    return EXIT_UNREACHABLE if missing else 0


def _run(command: str, loaded: Loaded, read: Callable[[], StreamingConfig], *, online: bool) -> int:
    """Carry out one command; the server is imported only where it is needed."""
    if command == "check":
        return _check(loaded, online=online)
    if command == "selftest":
        from streaming_api.selftest import run

        return run(loaded.config)
    from streaming_api.serve import serve

    return serve(Source(loaded.config, read))


def _load(arguments: argparse.Namespace, environ: Mapping[str, str]) -> Loaded:
    """Load from the files named; report the problems of both files together."""
    problems: list[Problem] = []
    if arguments.env_file is not None:
        try:
            environ = read_env_file(arguments.env_file) | dict(environ)
        except ConfigError as error:
            problems += error.problems
    named = environ.get(CONFIG_VARIABLE)
    path = arguments.config or (Path(named) if named else None)
    given = ((name, getattr(arguments, name, None)) for name in _OVERRIDES)
    try:
        loaded = load(path, environ, {name: raw for name, raw in given if raw is not None})
    except ConfigError as error:
        problems += error.problems
    if problems:
        raise ConfigError(problems)
    return loaded


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="streaming-api",
        description="A streaming server in front of an OpenAI-compatible LLM gateway.",
        epilog="Without a command: serve. Values come from the command line, the environment, "
        "the YAML file and the defaults, in this order.",
    )
    parser.add_argument("--version", action="store_true", help="print the version")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    serve = commands.add_parser("serve", help="run the server (the default)")
    check = commands.add_parser(
        "check", help="print the configuration in effect and where each value comes from"
    )
    selftest = commands.add_parser(
        "selftest", help="start on a loopback port, drive real clients through it, report"
    )
    for command in (serve, check, selftest):
        command.add_argument(
            "--config",
            type=Path,
            metavar="FILE",
            help=f"YAML configuration (default: ${CONFIG_VARIABLE}, or none)",
        )
        command.add_argument(
            "--env-file",
            type=Path,
            metavar="FILE",
            help="variables as in a systemd EnvironmentFile; the real environment wins",
        )
    check.add_argument(
        "--online", action="store_true", help="also ask every endpoint; status 1 if one is silent"
    )
    serve.add_argument("--host", help="address to listen on")
    serve.add_argument("--port", type=int, help="port to listen on; 0 for any free one")
    serve.add_argument("--log-level", metavar="LEVEL", help="DEBUG, INFO, WARNING or ERROR")
    return parser


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return f"streaming-api {version('streaming-api')}"
    except PackageNotFoundError:
        return "streaming-api (not installed)"
