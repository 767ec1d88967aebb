"""Re-exports the settings that any API service shares; holds no logic."""

from streaming_api.config import APIConfigSchema

__all__ = ["APIConfigSchema"]
