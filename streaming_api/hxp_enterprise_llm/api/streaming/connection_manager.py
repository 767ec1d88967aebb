"""Re-exports the connection manager; holds no logic."""

from streaming_api.documented import ConnectionManager

__all__ = ["ConnectionManager"]
