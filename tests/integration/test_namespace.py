"""The library's documented import paths, as they are after installation."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

PATHS = {
    "hxp_enterprise_llm.api.streaming.config": "StreamingConfig",
    "hxp_enterprise_llm.api.streaming.service": "StreamingService",
    "hxp_enterprise_llm.api.streaming.connection_manager": "ConnectionManager",
    "hxp_enterprise_llm.api.sse": "SSEService",
    "hxp_enterprise_llm.api.websocket": "WebSocketService",
    "hxp_enterprise_llm.orchestration.streaming_orchestrator": "StreamingOrchestrator",
    "hxp_enterprise_llm.schemas.configuration.api_schemas": "APIConfigSchema",
}


def python(code: str, folder: Path) -> str:
    """What code prints in a fresh interpreter, away from the checkout."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(autouse=True)
def _installed() -> None:
    if importlib.util.find_spec("hxp_enterprise_llm") is None:
        pytest.skip("streaming-api is not installed: make install")


def test_the_documented_paths_lead_to_the_same_objects(tmp_path: Path) -> None:
    code = (
        "import importlib, streaming_api.config, streaming_api.documented\n"
        "ours = [value for module in (streaming_api.config, streaming_api.documented)"
        " for value in vars(module).values()]\n"
        f"for path, name in {PATHS!r}.items():\n"
        "    documented = getattr(importlib.import_module(path), name)\n"
        "    print(path, any(value is documented for value in ours))"
    )
    assert python(code, tmp_path).splitlines() == [f"{path} True" for path in PATHS]
