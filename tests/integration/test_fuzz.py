"""A short run of the fuzzing in `make conformance`: no parser of hostile bytes breaks its word."""

from __future__ import annotations

import pytest

from tests.conformance.fuzz_hypothesis import fuzz
from tests.conformance.fuzz_targets import TARGETS, Target

INPUTS = 1_000


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_a_parser_takes_whatever_comes(target: Target) -> None:
    for seed in target.seeds:
        target.check(seed)
    fuzz(target, INPUTS, repeatable=True)


def test_a_target_that_raises_is_noticed() -> None:
    def check(data: bytes) -> None:
        assert b":" not in data

    broken = Target("broken", check, (b":",), (b"a",))
    with pytest.raises(AssertionError):
        fuzz(broken, INPUTS, repeatable=True)
