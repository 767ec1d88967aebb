"""Re-exports the settings that any API service of the library shares; holds no logic."""

from streaming_api.config import APIConfigSchema

__all__ = ["APIConfigSchema"]
