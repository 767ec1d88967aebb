"""LiteLLM's proxy."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.bench.peers.base import PEER_PYTHON, ChatFace, Peer
from tests.bench.peers.direct import END_OF_COMPLETION, ask_openai

CONFIG = """\
model_list:
  - model_name: "*"
    litellm_params:
      model: openai/*
      api_base: UPSTREAM/v1
      api_key: none
litellm_settings:
  set_verbose: false
  request_timeout: 600
general_settings:
  disable_spend_logs: true
"""


class LiteLlm(Peer):
    """The proxy, without a database."""

    name = "LiteLLM"
    most_answers = 100
    relay_rounds = 1
    flat_tokens = 200
    settings = (
        "One uvicorn worker, no database, no callbacks, a random master key, "
        "`LITELLM_MODE=PRODUCTION` and `LITELLM_LOG=ERROR`, as its production checklist "
        "advises:\n\n```yaml\n" + CONFIG + "```"
    )

    def __init__(self, folder: Path, upstream: str) -> None:
        """Choose a master key: the proxy does not start without one."""
        super().__init__(folder, upstream)
        self._key = "sk-" + secrets.token_hex(16)

    def command(self) -> Sequence[str]:
        """Run the proxy with one worker."""
        config = self.folder / "config.yaml"
        config.write_text(CONFIG.replace("UPSTREAM", self.upstream))
        proxy = [str(PEER_PYTHON.with_name("litellm")), "--config", str(config)]
        where = ["--host", "127.0.0.1", "--port", str(self.port)]
        return [*proxy, *where, "--num_workers", "1", "--telemetry", "False"]

    def environment(self) -> Mapping[str, str]:
        """Quiet; and whatever it would fetch from the internet meets a closed port."""
        return {
            "LITELLM_MASTER_KEY": self._key,
            "LITELLM_MODE": "PRODUCTION",
            "LITELLM_LOG": "ERROR",
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "NO_DOCS": "True",
            "DISABLE_ADMIN_UI": "True",
            "HTTPS_PROXY": "http://127.0.0.1:9",
        }

    def ready_url(self) -> str:
        """Its own liveness check."""
        return f"{self.base}/health/liveliness"

    def chat_faces(self) -> list[ChatFace]:
        """OpenAI's wire format."""
        url = f"{self.base}/v1/chat/completions"
        return [
            ChatFace(
                name="LiteLLM",
                url=url,
                websocket=False,
                end=END_OF_COMPLETION,
                ask=ask_openai,
                headers=(("Authorization", f"Bearer {self._key}"),),
            )
        ]
