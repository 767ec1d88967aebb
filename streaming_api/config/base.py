"""The settings that any API service of the library shares; knows nothing of streaming."""

from collections.abc import Iterator

import attrs

from streaming_api.config import validators as checks
from streaming_api.config.field import accept_values, setting
from streaming_api.config.problems import ConfigError, Problem

SECONDS = (0.01, 86_400)


@attrs.frozen(kw_only=True)
class APIConfigSchema:
    """The settings that any API service of the library shares.

    Every field is a keyword with a default; lists may be given where tuples are kept.

    Raises:
        ConfigError: A value does not fit; it lists all that do not, at once.
    """

    host: str = setting(
        "service.host",
        "127.0.0.1",
        "address to listen on; 0.0.0.0 for all of IPv4, :: for all",
        env="STREAMING_API_HOST",
        check=checks.host_to_bind,
    )
    port: int = setting(
        "service.port",
        9096,
        "port to listen on; 0 for any free one",
        env="STREAMING_API_PORT",
        between=(0, 65_535),
    )
    connection_timeout: float = setting(
        "service.connection_timeout",
        300,
        "silence of an upstream after which its answer ends with an error",
        env="STREAMING_API_CONNECTION_TIMEOUT",
        unit="s",
        between=SECONDS,
    )
    memory_gb: float = setting(
        "performance.memory_limit_gb",
        2,
        "memory above 90 % of which new connections are refused",
        env="STREAMING_API_MEMORY_GB",
        unit="GiB",
        between=(0.001, 65_536),
    )
    cpu_cores: int = setting(
        "performance.cpu_cores",
        4,
        "threads that the embedded model and executors may use at most",
        env="STREAMING_API_CPU_CORES",
        between=(1, 4_096),
    )
    timeout: float = setting(
        "connection_management.timeout",
        300,
        "time a new client has to send a complete request, or its first command",
        env="CONNECTION_TIMEOUT",
        unit="s",
        between=SECONDS,
    )

    def __attrs_post_init__(self) -> None:
        """Check every value, and then how the values fit together."""
        problems = accept_values(self)
        wrong = {name for problem in problems for name in problem.fields}
        problems += [p for p in self._conflicts() if wrong.isdisjoint(p.fields)]
        if problems:
            raise ConfigError(problems)

    def _conflicts(self) -> Iterator[Problem]:
        """Yield conflicts between values that are each allowed."""
        yield from ()
