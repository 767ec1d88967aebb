"""streaming-api: LLM answers, metrics, alerts and status, streamed over WebSocket and SSE."""

__version__ = "0.2.0"
