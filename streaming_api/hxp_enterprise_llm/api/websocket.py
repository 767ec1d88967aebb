"""Re-exports the WebSocket service: the one service serves both; holds no logic."""

from streaming_api.documented import StreamingService as WebSocketService

__all__ = ["WebSocketService"]
