"""Logs: where they go, and how a line looks: text for people, JSON for programs.

The fields of JSON are those of OpenTelemetry's log data model, in snake case. A disk that is full,
or a directory that is gone, costs a line a minute on standard error and nothing else.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from datetime import UTC, datetime
from logging.handlers import WatchedFileHandler
from pathlib import Path
from typing import Final

import orjson

from streaming_api.config import StreamingConfig
from streaming_api.trace_context import TraceContext

TEXT: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_SEVERITY: Final = {"DEBUG": 5, "INFO": 9, "WARNING": 13, "ERROR": 17, "CRITICAL": 21}
_COMPLAINT_SECONDS: Final = 60.0


class JsonLines(logging.Formatter):
    """One JSON object per line.

    Args:
        service: the value of ``resource.service.name``.
    """

    def __init__(self, service: str) -> None:
        super().__init__()
        self._resource = {"service.name": service, "process.pid": os.getpid()}

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        when = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        attributes: dict[str, object] = dict(getattr(record, "attributes", {}))
        if record.exc_info:
            attributes["exception.stacktrace"] = self.formatException(record.exc_info)
        line: dict[str, object] = {
            "timestamp": when.replace("+00:00", "Z"),
            "severity_text": record.levelname,
            "severity_number": _SEVERITY.get(record.levelname, 9),
            "body": record.getMessage(),
            "scope": record.name,
            "attributes": attributes,
            "resource": self._resource,
        }
        trace = getattr(record, "trace", None)
        if isinstance(trace, TraceContext):
            line |= {"trace_id": trace.trace_id, "span_id": trace.span_id}
        return orjson.dumps(line, default=str).decode(errors="replace")


class _Patient(logging.Handler):
    """A handler that, when it cannot write, says so once a minute where people look."""

    _complained = -_COMPLAINT_SECONDS
    _lost = 0

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (logging's name)
        """Say now and then that lines are lost; never print a traceback for each."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
            return
        self._lost += 1
        now = time.monotonic()
        if now - self._complained < _COMPLAINT_SECONDS:
            return
        self._complained = now
        where = getattr(self, "baseFilename", "standard error")
        reason = error.strerror or str(error)
        text = f"streaming-api: cannot write to {where}: {reason}; {self._lost} lines are lost.\n"
        self._lost = 0
        try:
            sys.stderr.write(text)
            sys.stderr.flush()
        except OSError:
            return  # nobody is left to notify


class StandardError(_Patient, logging.StreamHandler):  # type: ignore[type-arg]
    """A handler that writes to standard error."""


class LogFile(_Patient, WatchedFileHandler):
    """A handler that writes to a file, which logrotate may move away at any time."""


def set_up(config: StreamingConfig) -> None:
    """Log to standard error, and under systemd also to its logs directory."""
    found, complaint = handlers(config)
    # What no line shows is not looked up for each (logging HOWTO, "Optimization").
    logging._srcfile = None  # noqa: SLF001 (as documented)
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging.basicConfig(level=config.log_level, handlers=found)
    if complaint is not None:
        logging.getLogger(__name__).warning("%s", complaint)


def handlers(config: StreamingConfig) -> tuple[list[logging.Handler], str | None]:
    """Return the log's handlers, and a sentence if a file that it should go to cannot be used."""
    error = StandardError()
    error.setFormatter(_formatter(config, people=sys.stderr.isatty() or _is_the_journal()))
    directory = os.environ.get("LOGS_DIRECTORY")
    if not directory:
        return [error], None
    path = Path(directory.split(":")[0]) / "streaming-api.log"
    try:
        file = LogFile(path)
    except OSError as fault:
        why = fault.strerror or fault
        return [error], f"cannot write the log to {path}: {why}; it goes here only"
    file.setFormatter(_formatter(config, people=False))
    return [error, file], None


def _formatter(config: StreamingConfig, *, people: bool) -> logging.Formatter:
    is_text = people if config.log_format == "auto" else config.log_format == "text"
    return logging.Formatter(TEXT) if is_text else JsonLines(config.name)


def _is_the_journal() -> bool:
    """Return whether standard error is the journal, which has its own fields (systemd.exec(5))."""
    try:
        status = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"
