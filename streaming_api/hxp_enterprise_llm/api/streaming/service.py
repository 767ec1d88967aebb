"""Re-exports the streaming service; holds no logic."""

from streaming_api.service import StreamingService

__all__ = ["StreamingService"]
