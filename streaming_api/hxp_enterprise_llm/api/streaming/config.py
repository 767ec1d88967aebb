"""Re-exports the streaming configuration; holds no logic."""

from streaming_api.config import StreamingConfig

__all__ = ["StreamingConfig"]
