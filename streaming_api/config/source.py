"""Source: where a configuration was read from, to be read again while the process runs."""

from __future__ import annotations

from collections.abc import Callable

from streaming_api.config.schema import StreamingConfig


class Source:
    """The configuration of a process, and how to read it again.

    Args:
        config: the configuration as first read.
        read: reads all of it again; raises ConfigError.

    Attributes:
        config: the configuration as last read without a problem.
    """

    def __init__(self, config: StreamingConfig, read: Callable[[], StreamingConfig]) -> None:
        self.config = config
        self._read = read

    def read(self) -> StreamingConfig:
        """Read the configuration again, and keep it.

        Raises:
            ConfigError: it cannot be used; `config` stays what it was.
        """
        self.config = self._read()
        return self.config
