"""Configuration: one object, where each value comes from, and all that is wrong, at once.

`StreamingConfig` is the one table of settings; `load` fills it from a YAML file, the environment
and the command line. Nothing here opens a socket or imports the server.
"""

from streaming_api.config.base import APIConfigSchema
from streaming_api.config.environment import CONFIG_VARIABLE, read_env_file
from streaming_api.config.field import Setting
from streaming_api.config.loading import SETTINGS, Loaded, load
from streaming_api.config.problems import ConfigError, Problem
from streaming_api.config.report import effective, markdown_table
from streaming_api.config.schema import StreamingConfig
from streaming_api.config.source import Source
from streaming_api.config.types import ApiKey, IPNetwork, Scope

__all__ = [
    "CONFIG_VARIABLE",
    "SETTINGS",
    "APIConfigSchema",
    "ApiKey",
    "ConfigError",
    "IPNetwork",
    "Loaded",
    "Problem",
    "Scope",
    "Setting",
    "Source",
    "StreamingConfig",
    "effective",
    "load",
    "markdown_table",
    "read_env_file",
]
