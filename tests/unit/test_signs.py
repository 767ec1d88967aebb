"""What answers say about how an upstream is, beside its list of models."""

from __future__ import annotations

import pytest

from streaming_api.upstreams.answer import AnswerReader
from streaming_api.upstreams.reply_errors import UpstreamFault, fault
from streaming_api.upstreams.signs import RECENT, Signs

CHUNK = b'data: {"choices":[{"index":0,"delta":{"content":"Hi"},"finish_reason":null}]}\n\n'
ADDRESS = "http://gateway.test/v1/chat/completions"
BUSY = fault("upstream_http_error", "It is busy.", status=500)
SILENT = fault("upstream_timeout", "It fell silent.")
GONE = fault("upstream_unreachable", "Nothing listens.")


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def answered(signs: Signs, error: UpstreamFault | None = None, *, our_key: bool = True) -> None:
    """One answer, good unless it has an error."""
    reader = AnswerReader(1_000, usage_asked=False, as_chunks=True)
    with signs.during(reader, ADDRESS, our_key=our_key):
        if error is None:
            reader.read(CHUNK)
        else:
            reader.fail(error)


def test_nothing_is_said_before_the_first_answer() -> None:
    signs = Signs()
    signs.listed(BUSY)
    assert not signs.outweigh_the_list
    assert signs.complaint is None


@pytest.mark.parametrize(
    ("list_fault", "recent", "late"),
    [(BUSY, True, False), (SILENT, True, False), (GONE, False, False)],
)
def test_an_answer_outweighs_a_failing_list_for_a_minute(
    list_fault: UpstreamFault, *, recent: bool, late: bool
) -> None:
    """But not one that cannot be connected to."""
    clock = Clock()
    signs = Signs(clock=clock)
    signs.listed(None)
    answered(signs)
    signs.listed(list_fault)
    assert signs.outweigh_the_list is recent
    clock.now += RECENT
    assert signs.outweigh_the_list is late


def test_a_list_that_failed_in_the_same_way_when_one_came_says_nothing() -> None:
    clock = Clock()
    signs = Signs(clock=clock)
    signs.listed(BUSY)
    answered(signs)
    clock.now += 10 * RECENT
    signs.listed(BUSY)
    assert signs.outweigh_the_list
    signs.listed(SILENT)
    assert not signs.outweigh_the_list


def test_an_answer_that_comes_now_is_enough() -> None:
    signs = Signs()
    reader = AnswerReader(1_000, usage_asked=False, as_chunks=True)
    with signs.during(reader, ADDRESS, our_key=True):
        signs.listed(SILENT)
        assert not signs.outweigh_the_list
        reader.read(CHUNK)
        assert signs.outweigh_the_list


def test_an_answer_that_failed_does_not_show_that_the_upstream_is_up() -> None:
    signs = Signs()
    signs.listed(BUSY)
    answered(signs)
    answered(signs, SILENT)
    assert not signs.outweigh_the_list


@pytest.mark.parametrize(
    ("status", "reported"), [(404, True), (405, True), (502, True), (400, False)]
)
def test_a_wrong_address_is_reported_until_an_answer_comes(status: int, *, reported: bool) -> None:
    """With the address, and without the upstream's words, which may quote the question."""
    signs = Signs()
    answered(signs, fault("x", "No model of somebody.", status=status))
    assert (signs.complaint is not None) is reported
    if reported:
        assert signs.complaint == f"The newest answer failed: {status} from {ADDRESS}."
    answered(signs)
    assert signs.complaint is None


@pytest.mark.parametrize("status", [401, 403])
def test_a_key_that_is_refused_is_reported_if_it_is_ours(status: int) -> None:
    doubts: list[str] = []
    signs = Signs(lambda: doubts.append("?"))
    refusal = fault("x", "No.", status=status)
    answered(signs, refusal, our_key=False)
    assert (signs.complaint, doubts) == (None, [])
    answered(signs, refusal)
    said = f"The newest answer failed: {status} from {ADDRESS}"
    assert signs.complaint == f"{said}; is monitoring.api_gateway_key right?"
    assert doubts == ["?"]
    answered(signs, refusal, our_key=False)
    assert signs.complaint is not None
    answered(signs)
    assert signs.complaint is None


def test_what_cannot_be_connected_to_raises_a_doubt_at_once() -> None:
    doubts: list[str] = []
    signs = Signs(lambda: doubts.append("?"))
    answered(signs, BUSY)
    assert not doubts
    answered(signs, GONE)
    assert doubts == ["?"]
    answered(signs)
    assert doubts == ["?", "?"]
