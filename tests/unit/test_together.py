"""Figures of several workers as those of one service."""

from __future__ import annotations

from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families

from streaming_api.ops.together import expositions, figures

TEXT = b"""# HELP a_total Of a.
# TYPE a_total counter
a_total 1.0
# HELP b Of b.
# TYPE b gauge
b{kind="x"} 2.0
b{kind="y"} 3.0
"""
OPEN = b"""# HELP a Of a.
# TYPE a counter
a_total 1.0
# EOF
"""


def test_every_sample_says_whose_it_is_and_every_family_is_there_once() -> None:
    merged = expositions({"worker-1": TEXT, "worker-2": TEXT}).decode()
    assert merged.count("# TYPE b gauge") == 1
    found = {
        (sample.name, *sorted(sample.labels.items()))
        for family in text_string_to_metric_families(merged)
        for sample in family.samples
    }
    assert len(found) == 6
    assert ("b", ("kind", "x"), ("worker", "worker-2")) in found
    assert ("a_total", ("worker", "worker-1")) in found


def test_open_metrics_end_once() -> None:
    merged = expositions({"worker-1": OPEN, "worker-2": OPEN}).decode()
    assert merged.endswith("# EOF\n")
    (family,) = open_metrics(merged)  # type: ignore[no-untyped-call]
    assert [sample.labels for sample in family.samples] == [
        {"worker": "worker-1"},
        {"worker": "worker-2"},
    ]


def test_numbers_are_added_and_of_shares_and_delays_the_worst_is_shown() -> None:
    def part(percent: float | None, count: int) -> dict[str, object]:
        reason = None if percent is not None else "no traffic"
        return {
            "sse_performance": {"percent": percent, "target": 90, "reason": reason},
            "delivery": {"p99": 0.01 * count, "count": count},
            "answers": {"running": count},
        }

    whole = figures({"worker-1": part(None, 1), "worker-2": part(97.5, 2)})
    assert whole["sse_performance"] == {"percent": 97.5, "target": 90, "reason": None}
    assert whole["delivery"] == {"p99": 0.02, "count": 3}
    assert whole["answers"] == {"running": 3}
    assert whole["workers"]["worker-1"]["answers"] == {"running": 1}
