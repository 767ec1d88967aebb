"""The topics: metrics, alerts and status, on one channel. Each module is one topic's state."""

from streaming_api.topics.registry import Topics
from streaming_api.topics.rules import Readings

__all__ = ["Readings", "Topics"]
