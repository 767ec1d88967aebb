"""What the document of the page leaves out, and what it must not."""

from __future__ import annotations

import orjson

from streaming_api.web.first_screen import compact, without_comments


def test_the_history_has_what_the_charts_draw_in_three_digits_and_whole_counts() -> None:
    history = {
        "event": "snapshot",
        "times": [1_800_000_000, 1_800_000_010, 1_800_000_011],
        "series": {
            "tokens_per_second": [481.26, 0.0, None],
            "first_token_p95_seconds": [0.0012345, 1.0, 2.0],
            "limit_websocket": [1024.0, 1024.0, 1024.0],
            "connections_websocket": [1234.56, 12.0, None],
            "cpu_seconds": [1.0, 2.0, 3.0],
        },
        "marks": [{"time": 1, "event": "started", "name": "x"}],
    }
    alerts = {"stream_id": "alerts", "data": {"times": [1, 2], "series": {}}}
    messages = [alerts, {"stream_id": "history", "data": history, "cursor": "e:3"}]
    document = orjson.loads(compact(orjson.dumps({"status": {}, "messages": messages})))
    assert document["messages"][0] == alerts
    assert document["messages"][1]["cursor"] == "e:3"
    assert document["messages"][1]["data"] == history | {
        "times": [1_800_000_000, 10, 1],
        "series": {
            "tokens_per_second": [481, 0, None],
            "first_token_p95_seconds": [0.00123, 1, 2],
            "limit_websocket": [1024, 1024, 1024],
            "connections_websocket": [1234.6, 12, None],
        },
    }


def test_comments_are_left_out_and_lines_keep_their_numbers() -> None:
    source = b"""// What this is.

/**
 * What it does.
 */
const address = "http://x"; // stays
  /* one */
const text = `a /* b */`;
a { b: url(//c) }
"""
    served = without_comments(source)
    assert served.count(b"\n") == source.count(b"\n")
    left = [line for line in served.split(b"\n") if line]
    assert left == [
        b'const address = "http://x"; // stays',
        b"const text = `a /* b */`;",
        b"a { b: url(//c) }",
    ]
