"""Re-exports the connection manager; holds no logic."""

from streaming_api.connections.manager import ConnectionManager

__all__ = ["ConnectionManager"]
