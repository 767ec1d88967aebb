"""Logs: a disk that is full, a directory that is gone, and what a line looks like."""

from __future__ import annotations

import json
import logging
from contextlib import closing, suppress
from pathlib import Path

import pytest

from streaming_api.config import StreamingConfig
from streaming_api.serving import logs
from streaming_api.serving.logs import JsonLines, LogFile
from streaming_api.trace_context import TraceContext


def record(text: str = "hello %s", *values: object) -> logging.LogRecord:
    return logging.LogRecord("x", logging.INFO, __file__, 1, text, values or ("you",), None)


def test_a_full_disk_costs_one_line_a_minute(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """/dev/full refuses every byte."""
    now = 1_000.0
    monkeypatch.setattr("streaming_api.serving.logs.time.monotonic", lambda: now)
    handler = LogFile("/dev/full")
    for _ in range(100):
        handler.emit(record())
    now += 61
    handler.emit(record())
    with suppress(OSError):
        handler.close()
    output = capsys.readouterr().err
    assert output == (
        "streaming-api: cannot write to /dev/full: No space left on device; 1 lines are lost.\n"
        "streaming-api: cannot write to /dev/full: No space left on device; 100 lines are lost.\n"
    )


def test_a_line_that_cannot_be_made_is_still_a_traceback(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with closing(LogFile("/dev/null")) as handler:
        handler.emit(record("%d", "no number"))
    assert "Traceback" in capsys.readouterr().err


def test_a_directory_that_is_missing_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "none"
    monkeypatch.setenv("LOGS_DIRECTORY", str(path))
    found, output = logs.handlers(StreamingConfig())
    assert len(found) == 1
    assert output == (
        f"cannot write the log to {path}/streaming-api.log: No such file or directory; "
        "it goes here only"
    )


def test_the_file_is_json_where_people_read_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOGS_DIRECTORY", f"{tmp_path}:/elsewhere")
    monkeypatch.setattr("streaming_api.serving.logs._is_the_journal", lambda: True)
    (error, file), output = logs.handlers(StreamingConfig())
    assert output is None
    assert (type(error.formatter), type(file.formatter)) == (logging.Formatter, JsonLines)
    with closing(file):
        file.emit(record())
    assert json.loads((tmp_path / "streaming-api.log").read_text())["body"] == "hello you"


@pytest.mark.parametrize(
    ("name", "kind"), [("json", JsonLines), ("text", logging.Formatter), ("auto", JsonLines)]
)
def test_the_setting_says_which(name: str, kind: type) -> None:
    """Auto: nobody reads along, because standard error is no terminal in a test."""
    (error,), _ = logs.handlers(StreamingConfig(log_format=name))
    assert type(error.formatter) is kind


def test_a_line_of_json_has_the_fields_of_the_data_model() -> None:
    trace = TraceContext("0" * 31 + "1", "0" * 15 + "1")
    one = record()
    one.__dict__.update(trace=trace, attributes={"gen_ai.operation.name": "chat"})
    line = json.loads(JsonLines("s").format(one))
    assert line["body"] == "hello you"
    assert line["attributes"] == {"gen_ai.operation.name": "chat"}
    assert (line["trace_id"], line["span_id"]) == (trace.trace_id, trace.span_id)
    assert line["timestamp"].endswith("Z")


@pytest.mark.parametrize(
    "text",
    [
        "", "00-0-0-01", f"00-{'0' * 32}-{'1' * 16}-01", f"00-{'1' * 32}-{'0' * 16}-01",
        f"ff-{'1' * 32}-{'1' * 16}-01", f"00-{'G' * 32}-{'1' * 16}-01",
    ],
)  # fmt: skip
def test_what_is_no_trace_context_begins_a_new_trace(text: str) -> None:
    assert TraceContext.parse(text) is None


def test_a_trace_context_is_passed_on_with_its_flags_and_state() -> None:
    came = TraceContext.parse(f"00-{'1' * 32}-{'2' * 16}-00", "vendor=x")
    assert came is not None
    child = came.child()
    assert (child.trace_id, child.parent_id, child.sampled) == ("1" * 32, "2" * 16, False)
    assert child.headers() == {
        "traceparent": f"00-{'1' * 32}-{child.span_id}-00",
        "tracestate": "vendor=x",
    }
    assert TraceContext.parse(f"00-{'1' * 32}-{'2' * 16}-01", "a\r\nb: c").headers().keys() == {  # type: ignore[union-attr]
        "traceparent"
    }
