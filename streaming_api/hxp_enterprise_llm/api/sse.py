"""Re-exports the SSE service: the one service serves both; holds no logic."""

from streaming_api.service import StreamingService as SSEService

__all__ = ["SSEService"]
