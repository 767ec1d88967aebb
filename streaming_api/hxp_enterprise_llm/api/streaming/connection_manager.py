"""Re-exports the connection manager; holds no logic."""

from streaming_api.connection_manager import ConnectionManager

__all__ = ["ConnectionManager"]
