"""Hypothesis on one target: where Atheris has no wheel, and for the short run in CI.

``python -m tests.conformance.fuzz_hypothesis TARGET -runs=N`` takes libFuzzer's options and minds
the one.
"""

from __future__ import annotations

import sys

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.conformance.fuzz_targets import TARGETS, Target


def inputs_of(target: Target) -> st.SearchStrategy[bytes]:
    """Noise, and the target's own tokens and seeds, in any order."""
    piece = st.one_of(
        st.sampled_from(target.tokens), st.sampled_from(target.seeds), st.binary(max_size=8)
    )
    return st.lists(piece, max_size=12).map(b"".join)


def fuzz(target: Target, inputs: int, *, repeatable: bool) -> None:
    """So many inputs.

    Raises:
        Exception: what the target raised, with the smallest input that makes it do so.
    """

    @settings(
        max_examples=inputs,
        deadline=None,
        database=None,
        derandomize=repeatable,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(inputs_of(target))
    def check(data: bytes) -> None:
        target.check(data)

    check()


def main() -> None:
    """Feed one target and say how often, as libFuzzer does."""
    name, *options = sys.argv[1:]
    target = next(target for target in TARGETS if target.name == name)
    inputs = next(int(option[6:]) for option in options if option.startswith("-runs="))
    fuzz(target, inputs, repeatable=False)
    print(f"stat::number_of_executed_units: {inputs}")  # noqa: T201 (read by `fuzzing`)


if __name__ == "__main__":
    main()
