"""Whether the embedded model can run on this machine."""

from __future__ import annotations

from streaming_api.upstreams.model_file import NoModelError, check_machine, find_model


def missing_model() -> str | None:
    """Why it cannot; None if it can."""
    try:
        check_machine()
        find_model("auto")
    except NoModelError as error:
        return str(error)
    return None
