"""Re-exports the SSE service: the one service serves both; holds no logic."""

from streaming_api.documented import StreamingService as SSEService

__all__ = ["SSEService"]
