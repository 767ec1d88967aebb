"""Re-exports the streaming service; holds no logic."""

from streaming_api.documented import StreamingService

__all__ = ["StreamingService"]
