"""Re-exports the streaming orchestrator; holds no logic."""

from streaming_api.documented import StreamingService as StreamingOrchestrator

__all__ = ["StreamingOrchestrator"]
