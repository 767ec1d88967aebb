"""Which models refuse ``stream_options``: remembered for a while, and bounded."""

from __future__ import annotations

import pytest

from streaming_api.upstreams import stream_usage
from streaming_api.upstreams.stream_usage import StreamUsage


def refuse(usage: StreamUsage, model: str | None) -> None:
    fallback = usage.fallback(model, lambda: b"{}")
    assert fallback is not None
    fallback.refused()


def test_a_model_that_refused_them_is_not_asked_with_them_for_an_hour() -> None:
    now = 100.0
    usage = StreamUsage("auto", lambda: now)
    refuse(usage, "strict")
    refuse(usage, None)
    assert [usage.is_asked(model) for model in ("strict", None, "other")] == [False, False, True]
    assert usage.fallback("strict", lambda: b"{}") is None
    now += stream_usage.REMEMBERED
    assert usage.is_asked("strict")
    assert usage.refusals == 2


def test_a_refusal_that_it_was_not_is_taken_back() -> None:
    usage = StreamUsage("auto")
    fallback = usage.fallback("m", lambda: b"{}")
    assert fallback is not None
    fallback.refused()
    fallback.in_vain()
    assert usage.is_asked("m")


@pytest.mark.parametrize(("setting", "asked"), [("always", True), ("never", False)])
def test_a_setting_says_it_at_once(setting: str, *, asked: bool) -> None:
    usage = StreamUsage(setting)
    assert usage.is_asked("m") is asked
    assert usage.fallback("m", lambda: b"{}") is None


def test_what_is_remembered_is_bounded() -> None:
    usage = StreamUsage("auto")
    refuse(usage, "x" * 1_000_000)
    for number in range(stream_usage.MAX_REMEMBERED + 50):
        refuse(usage, f"m{number}")
    assert len(usage._refused) == stream_usage.MAX_REMEMBERED
    assert usage.is_asked("m0")
    assert max(map(len, usage._refused)) <= stream_usage.MAX_NAME
