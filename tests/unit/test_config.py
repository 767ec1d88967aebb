"""Configuration: what loads, what is refused and in which words, and which source wins."""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streaming_api.config import (
    SETTINGS,
    APIConfigSchema,
    ApiKey,
    ConfigError,
    Loaded,
    StreamingConfig,
    effective,
    load,
    markdown_table,
    read_env_file,
)
from tests.certificates import make_certificate

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data"
EXAMPLE = ROOT / "conf" / "streaming-api.yaml"
SHA = "ab" * 32
NUMBERS = {bool, int, float}
KEY = {"name": "wall", "sha256": SHA, "scopes": ["watch"]}

IN_THE_CONTRACT = {
    "name": "streaming-api",
    "port": 9096,
    "host": "0.0.0.0",
    "workers": 2,
    "websocket_enabled": True,
    "max_connections": 1000,
    "heartbeat_interval": 30,
    "message_size_limit": 1048576,
    "websocket_compression": True,
    "sse_enabled": True,
    "sse_max_connections": 500,
    "sse_retry_timeout": 5000,
    "sse_keep_alive_interval": 30,
    "sse_compression": True,
    "streaming_chat_enabled": True,
    "streaming_metrics_enabled": True,
    "streaming_alerts_enabled": True,
    "streaming_status_enabled": True,
    "buffer_size": 8192,
    "flush_interval": 100,
    "batch_size": 10,
    "compression_enabled": True,
    "pool_size": 100,
    "timeout": 300,
    "cleanup_interval": 60,
    "max_idle_time": 1800,
    "memory_gb": 2,
    "cpu_cores": 4,
    "log_level": "INFO",
    "api_gateway_endpoint": "http://192.168.10.29:8000",
    "metrics_server_endpoint": "http://192.168.10.37:9090",
    "custom_metrics_endpoint": "http://192.168.10.29:9091",
}


def written(tmp_path: Path, text: str | bytes) -> Path:
    """A YAML file with this text."""
    path = tmp_path / "streaming-api.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def loaded(tmp_path: Path, text: str | bytes, environ: Mapping[str, str] | None = None) -> Loaded:
    """What a file with this text loads as."""
    return load(written(tmp_path, text), environ or {})


def problems(
    tmp_path: Path, text: str | bytes, environ: Mapping[str, str] | None = None
) -> list[str]:
    """What is wrong with a file with this text, without the folder's name."""
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, text, environ)
    return [str(problem).replace(f"{tmp_path}/", "") for problem in caught.value.problems]


def wrong(**values: object) -> list[str]:
    """What is wrong with an object built in code."""
    with pytest.raises(ConfigError) as caught:
        StreamingConfig(**values)  # type: ignore[arg-type]
    return [str(problem) for problem in caught.value.problems]


class TestContract:
    """The files that were agreed on load unchanged."""

    def test_the_yaml_file_loads_and_every_value_arrives(self) -> None:
        config = load(DATA / "streaming-api.yaml", {}).config
        assert {name: getattr(config, name) for name in IN_THE_CONTRACT} == IN_THE_CONTRACT

    def test_every_line_of_the_yaml_file_is_the_origin_of_a_value(self) -> None:
        lines = (DATA / "streaming-api.yaml").read_text().splitlines()
        with_value = {n for n, line in enumerate(lines, 1) if re.match(r"  \w+: ", line)}
        origins = load(DATA / "streaming-api.yaml", {}).origins.values()
        assert with_value == {int(o.rpartition(":")[2]) for o in origins if ":" in o}

    def test_every_variable_of_the_environment_file_is_the_origin_of_a_value(self) -> None:
        environ = read_env_file(DATA / "streaming.env")
        origins = load(None, environ).origins.values()
        assert {f"environment {name}" for name in environ} <= set(origins)

    def test_the_environment_file_says_the_same_as_the_yaml_file(self) -> None:
        from_env = load(None, read_env_file(DATA / "streaming.env"))
        from_yaml = load(DATA / "streaming-api.yaml", {}).config
        for name, origin in from_env.origins.items():
            if origin != "default":
                assert getattr(from_env.config, name) == getattr(from_yaml, name), name

    @pytest.mark.parametrize("name", [n for n, row in SETTINGS.items() if row.kind in NUMBERS])
    def test_another_value_in_the_environment_has_its_effect(self, name: str) -> None:
        row = SETTINGS[name]
        other = not row.default if row.kind is bool else int(row.default) + 1
        environ = {"STREAMING_API_KEYS": json.dumps([KEY]), row.env: str(other)}
        assert getattr(load(None, environ).config, name) == other


class TestObject:
    """The flat constructor."""

    def test_flat_keywords_build_a_configuration(self) -> None:
        config = StreamingConfig(
            port=9096, memory_gb=2, max_connections=1000, heartbeat_interval=30
        )
        assert (config.port, config.memory_gb, config.max_connections) == (9096, 2, 1000)

    def test_a_configuration_is_frozen(self) -> None:
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            StreamingConfig().port = 1  # type: ignore[misc]

    def test_a_configuration_reports_all_that_is_wrong_at_once(self) -> None:
        assert wrong(port=1.9, workers=True, websocket_enabled="false", poll_interval=0) == [
            "port: found 1.9, needs a whole number from 0 to 65535",
            "workers: found true, needs a whole number from 1 to 1024",
            'websocket_enabled: found "false" (text), needs true or false',
            "poll_interval: found 0, needs a number from 0.01 to 3600 (s)",
        ]

    def test_every_setting_is_bounded_or_checked(self) -> None:
        for row in SETTINGS.values():
            if row.kind in {int, float}:
                assert row.least is not None, row.name
                assert row.most is not None, row.name

    @pytest.mark.parametrize("name", [n for n, row in SETTINGS.items() if row.most is not None])
    def test_the_ends_of_a_range_are_allowed_and_beyond_is_not(self, name: str) -> None:
        row = SETTINGS[name]
        assert row.least is not None
        assert row.most is not None
        StreamingConfig(**{name: row.least})  # type: ignore[arg-type]
        StreamingConfig(**{name: row.most})  # type: ignore[arg-type]
        assert wrong(**{name: row.most + 1})
        assert wrong(**{name: row.least - 1})

    @pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
    def test_what_is_not_a_finite_number_is_refused(self, number: float) -> None:
        assert len(wrong(poll_interval=number, memory_gb=number)) == 2

    def test_evolving_a_configuration_checks_again(self) -> None:
        config = StreamingConfig(log_level="debug")
        assert attrs.evolve(config, port=0).log_level == "DEBUG"
        with pytest.raises(ConfigError):
            attrs.evolve(config, port=-1)

    def test_a_configuration_is_one_of_any_api_service(self) -> None:
        assert isinstance(StreamingConfig(), APIConfigSchema)
        assert APIConfigSchema(port=1, memory_gb=0.5, cpu_cores=1, timeout=5).port == 1
        with pytest.raises(ConfigError):
            APIConfigSchema(port=-1)

    def test_names_paths_and_variables_are_unique(self) -> None:
        rows = SETTINGS.values()
        assert len({row.path for row in rows}) == len({row.env for row in rows}) == len(SETTINGS)

    def test_two_objects_do_not_share_a_mapping(self) -> None:
        assert StreamingConfig().queries is not StreamingConfig().queries


class TestSettingsOfTheirOwnKind:
    """Lists, URLs, keys, files."""

    def test_lists_become_tuples_and_records_become_keys(self) -> None:
        config = StreamingConfig(
            api_keys=[KEY],  # type: ignore[arg-type]
            trusted_proxies=["10.0.0.0/8", "::1"],  # type: ignore[arg-type]
            allowed_origins=["https://A.example"],  # type: ignore[arg-type]
            allowed_hosts=["[::1]", "A.example"],  # type: ignore[arg-type]
        )
        assert config.api_keys == (ApiKey(name="wall", sha256=SHA, scopes=frozenset({"watch"})),)
        assert ipaddress.ip_address("10.1.2.3") in config.trusted_proxies[0]
        assert config.allowed_origins == ("https://a.example",)
        assert config.allowed_hosts == ("::1", "a.example")
        assert StreamingConfig(api_keys=config.api_keys).api_keys == config.api_keys

    @pytest.mark.parametrize(
        "url",
        [
            "ftp://127.0.0.1", "127.0.0.1:8000", "http://", "http://:80", "http://a b/",
            "http://a:99999", "http://a:0", "http://a/?q#f", "http://a/?q q", "http://a/#f",
            "http://[::1", "", "http://a\n", "http://-a",
        ],
    )  # fmt: skip
    def test_what_is_no_url_of_a_server_is_refused(self, url: str) -> None:
        (problem,) = wrong(api_gateway_endpoint=url)
        assert "a URL such as http://127.0.0.1:8000" in problem

    def test_a_password_in_a_url_is_refused_and_not_repeated(self) -> None:
        for url in ("http://me:hunter2@host", "http://me:hunter2@host:x", "me:hunter2@host"):
            (problem,) = wrong(api_gateway_endpoint=url)
            assert "hunter2" not in problem

    def test_a_trailing_slash_of_a_url_is_dropped(self) -> None:
        config = StreamingConfig(api_gateway_endpoint="https://gateway.example:8443/base/")
        assert config.api_gateway_endpoint == "https://gateway.example:8443/base"

    def test_a_gateways_query_is_kept_and_no_other_servers(self) -> None:
        config = StreamingConfig(api_gateway_endpoint="http://gateway.example/base/?api-version=3")
        assert config.api_gateway_endpoint == "http://gateway.example/base?api-version=3"
        (problem,) = wrong(metrics_server_endpoint="http://prometheus.example/?q")
        assert "query" in problem

    @pytest.mark.parametrize("origin", ["*", "null", "a.example", "https://a/", "https://u@a"])
    def test_what_is_no_origin_is_refused(self, origin: str) -> None:
        assert wrong(allowed_origins=[origin])

    @pytest.mark.parametrize("name", ["", "a b", "a:", "a\nb", "*a", "a**", "ä"])
    def test_a_header_is_named_as_http_has_it(self, name: str) -> None:
        assert wrong(forward_headers=[name])
        assert wrong(return_headers=[name])
        named = ("X-Title", "x-ratelimit-*")
        assert StreamingConfig(forward_headers=named).forward_headers == named

    @pytest.mark.parametrize("host", ["*", "a.example:80", "http://a", "", "a b"])
    def test_what_is_no_host_name_is_refused(self, host: str) -> None:
        assert wrong(allowed_hosts=[host])

    def test_a_model_file_must_exist(self, tmp_path: Path) -> None:
        model = tmp_path / "small.gguf"
        assert "exists" in wrong(embedded_model=str(model))[0]
        model.touch()
        assert StreamingConfig(embedded_model=str(model)).embedded_model == str(model)
        assert wrong(embedded_model="smol")

    @pytest.mark.parametrize(
        "path", ["~\0", "~nobody-known/a.gguf", "a\0.gguf", f"{'x' * 300}.gguf"]
    )
    def test_a_path_that_no_file_can_have_is_refused_in_words(self, path: str) -> None:
        assert ".gguf file" in wrong(embedded_model=path)[0]

    def test_tls_needs_both_files_and_they_must_exist(self, tmp_path: Path) -> None:
        pem = tmp_path / "a.pem"
        assert len(wrong(tls_certificate=pem, tls_key=str(pem))) == 2
        certificate, key = make_certificate(tmp_path)
        pem.write_bytes(certificate.read_bytes() + key.read_bytes())
        assert "give both" in wrong(tls_certificate=pem)[0]
        assert "give both" in wrong(tls_key=str(pem))[0]
        assert StreamingConfig(tls_certificate=pem, tls_key=pem).tls_key == pem

    def test_a_fault_is_not_reported_again_as_a_contradiction(self, tmp_path: Path) -> None:
        pem = tmp_path / "a.pem"
        pem.touch()
        assert len(wrong(tls_certificate=pem, tls_key=tmp_path / "none.pem")) == 1
        text = f"security:\n  tls_certificate: {pem}\n  tls_key: {tmp_path}/none.pem\n"
        assert len(problems(tmp_path, text)) == 1

    def test_requiring_keys_needs_keys(self) -> None:
        assert "there are no keys" in wrong(require_keys=True)[0]
        assert StreamingConfig(require_keys=True, api_keys=[KEY]).require_keys  # type: ignore[arg-type]

    def test_each_fault_of_each_key_is_reported_with_its_path(self) -> None:
        keys = [{"name": "a b", "sha256": "x", "scopes": ["fly", "chat"], "extra": 1}, 3, {}]
        assert [problem.partition(": ")[0] for problem in wrong(api_keys=keys)] == [
            "api_keys[0].name", "api_keys[0].sha256", "api_keys[0].scopes[0]", "api_keys[0]",
            "api_keys[1]", "api_keys[2].name", "api_keys[2].sha256", "api_keys[2].scopes",
        ]  # fmt: skip

    def test_two_keys_with_one_name_or_one_hash_are_refused(self) -> None:
        assert len(wrong(api_keys=[KEY, KEY])) == 2

    def test_secrets_are_in_no_representation_and_no_problem(self) -> None:
        config = StreamingConfig(gateway_api_key="hunter2", api_keys=[KEY])  # type: ignore[arg-type]
        assert "hunter2" not in repr(config)
        assert SHA not in repr(config)
        assert SHA not in repr(config.api_keys)
        (problem,) = wrong(gateway_api_key="hunter2 hunter2")
        assert "hunter2" not in problem
        (problem,) = wrong(api_keys=[{**KEY, "sha256": "hunter2"}])
        assert "hunter2" not in problem

    def test_queries_are_names_and_expressions(self) -> None:
        assert StreamingConfig(queries={"up": "sum(up)"}).queries == {"up": "sum(up)"}
        assert len(wrong(queries={"9": "up", "a": " ", "b": 1})) == 3
        assert wrong(queries=["up"]) == [
            "queries: found a list, needs a mapping of names to values"
        ]


class TestYaml:
    """Strict reading with lines."""

    def test_an_empty_file_and_empty_sections_are_the_defaults(self, tmp_path: Path) -> None:
        for text in ("", "# nothing\n", "sse:\nwebsocket:\n", "sse:\nsse: {}\n"):
            assert loaded(tmp_path, text).config == StreamingConfig()

    def test_a_section_in_two_parts_is_merged(self, tmp_path: Path) -> None:
        text = "performance:\n  batch_size: 3\nperformance:\n  cpu_cores: 2\n"
        result = loaded(tmp_path, text)
        assert (result.config.batch_size, result.config.cpu_cores) == (3, 2)
        assert result.origins["batch_size"] == "streaming-api.yaml:2"
        assert result.origins["cpu_cores"] == "streaming-api.yaml:4"

    def test_keys_that_are_the_same_are_named(self, tmp_path: Path) -> None:
        rows = [("wall", "a"), ("page", "b"), ("wall", "b")]
        keys = [f"{{name: {name}, sha256: {digit * 64}, scopes: [chat]}}" for name, digit in rows]
        found = "\n".join(problems(tmp_path, f"security:\n  api_keys: [{', '.join(keys)}]\n"))
        assert "the same name, wall and wall; each needs its own" in found
        assert "the same sha256, page and wall; each needs its own" in found

    def test_a_setting_twice_names_both_lines(self, tmp_path: Path) -> None:
        text = "sse:\n  enabled: true\n  enabled: true\nsse:\n  enabled: false\n"
        assert problems(tmp_path, text) == [
            f"streaming-api.yaml:{line}: sse.enabled: "
            f"found twice, in line 2 and in line {line}; keep one of them"
            for line in (3, 5)
        ]

    def test_all_problems_come_at_once_in_the_order_of_lines(self, tmp_path: Path) -> None:
        text = """\
service:
  prot: 9096
  port: "9096"
  workers: 1.9
websocket:
  enabled: "false"
  max_connections: true
  heartbeat_interval: .nan
performanse: {}
sse: 3
performance:
  resume_grace: 1
  log_level: loud
monitoring:
  queries: {a: up, a: up, b: 3}
security:
  api_keys:
    - name: x
      sha256: x
"""
        environ = {"STREAMING_RESUME_GRACE": "-1"}
        found = problems(tmp_path, text, environ)
        assert [problem.removeprefix("streaming-api.yaml:") for problem in found] == [
            '2: service.prot: unknown key "prot" (did you mean port?)',
            '3: service.port: found "9096" (text), needs a whole number from 0 to 65535',
            "4: service.workers: found 1.9, needs a whole number from 1 to 1024",
            '6: websocket.enabled: found "false" (text), needs true or false',
            "7: websocket.max_connections: found true, needs a whole number from 1 to 1000000",
            "8: websocket.heartbeat_interval: found nan, needs a number from 0.01 to 86400 (s)",
            '9: performanse: unknown section "performanse" (did you mean performance?)',
            "10: sse: found 3, needs settings under it",
            ('12: performance.resume_grace: unknown key "resume_grace" '
            "(write it as connection_management.resume_grace)"),
            ('13: performance.log_level: found "loud" (text), '
            "needs one of DEBUG, INFO, WARNING, ERROR, CRITICAL"),
            "15: monitoring.queries.a: found twice, in line 15 and in line 15; keep one of them",
            ("15: monitoring.queries.b: found 3, "
            "needs text (in quotes, if it looks like something else)"),
            "18: security.api_keys[0].scopes: is missing",
            ("19: security.api_keys[0].sha256: found a value that does not fit (not shown), "
            "needs the SHA-256 of the key, 64 hexadecimal digits (printf %s KEY | sha256sum)"),
            ("environment STREAMING_RESUME_GRACE: connection_management.resume_grace: found -1, "
            "needs a number from 0 to 86400 (s)"),
        ]  # fmt: skip

    @pytest.mark.parametrize(
        "value", ["010", "0x10", "1:30", "1_000", "1e3", "'1'", "[1]", "{a: 1}", "~", "1.0", "٣"]
    )
    def test_only_decimal_digits_are_a_whole_number(self, tmp_path: Path, value: str) -> None:
        assert len(problems(tmp_path, f"service:\n  port: {value}\n")) == 1

    @pytest.mark.parametrize(("text", "number"), [("2", 2), ("0.5", 0.5), ("1e1", 10), (".5", 0.5)])
    def test_numbers_are_read_as_written(self, tmp_path: Path, text: str, number: float) -> None:
        config = loaded(tmp_path, f"monitoring:\n  poll_interval: {text}\n").config
        assert config.poll_interval == number

    def test_a_number_of_thousands_of_digits_is_refused(self, tmp_path: Path) -> None:
        (problem,) = problems(tmp_path, f"service:\n  port: {'9' * 5000}\n")
        assert len(problem) < 250

    @pytest.mark.parametrize(
        ("text", "fault"),
        [
            ("service: {name: &a x, host: *a}", ["an anchor", "an alias"]),
            ("service: {name: !!python/object:os.system x}", ["a tag"]),
            ("service: !!map {port: 1}", ["a tag"]),
            ("? [a]\n: 1\n", ["not plain text"]),
            ("? {a: b}\n: {c: d}\n", ["not plain text"]),
            ("<<: {port: 1}", ["unknown section"]),
            ("service: {port: 1", [":1: is not YAML", "bracket or brace is not closed"]),
            ("service:\n\tport: 1", [":2: is not YAML", "with spaces, not with tabs"]),
            ("service:\n  port: 1\n workers: 2", [":3: is not YAML", "indent it like the lines"]),
            ("service:\n  name: a: b", [":2: is not YAML", "needs quotes"]),
            ("service:\n  name: @x", [":2: is not YAML", "into quotes"]),
            ("service:\n  port:1\n  workers: 2", ["is not YAML", "a space after each colon"]),
            ('service:\n  name: "x', ["is not YAML", "a quote is not closed"]),
            ("a: 1\n---\nb: 1", ["is not YAML"]),
            ("[1, 2]", ["found a list, needs sections"]),
            ("hello", ["found", "needs sections"]),
            ("*a", ["an alias"]),
            ("[" * 5000, ["nested too deeply"]),
            ("a: \x00", ["control character"]),
            (b"service:\n  name: \xff\n", ["streaming-api.yaml:2: is not UTF-8"]),
            ("#" * 300_000, ["larger than 256 KiB"]),
        ],
    )
    def test_what_is_not_plain_yaml_is_refused(
        self, tmp_path: Path, text: str | bytes, fault: list[str]
    ) -> None:
        found = "\n".join(problems(tmp_path, text))
        assert all(words in found for words in fault), found

    def test_a_refused_value_is_reported_once(self, tmp_path: Path) -> None:
        text = "service:\n  port: !!int 1\nsecurity:\n  allowed_origins: [&a http://a]\n"
        assert problems(tmp_path, text) == [
            "streaming-api.yaml:2: service.port: found a tag (!), needs the plain value",
            ("streaming-api.yaml:4: security.allowed_origins[0]: "
            "found an anchor (&), needs the plain value"),
        ]  # fmt: skip

    def test_a_bomb_of_aliases_is_not_expanded(self, tmp_path: Path) -> None:
        levels = ["a0: &a0 [x, x]"] + [
            f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)
        ]
        assert problems(tmp_path, "\n".join(levels))

    def test_a_file_that_is_not_there_is_a_problem(self, tmp_path: Path) -> None:
        for path in (tmp_path / "none.yaml", tmp_path):
            with pytest.raises(ConfigError, match="cannot be read"):
                load(path, {})

    def test_text_from_the_file_stays_on_the_line_of_its_problem(self, tmp_path: Path) -> None:
        text = 'service:\n  "a\\nb": 1\n  host: "x\\ny\\e[31m"\n"s\\r\\nt": {}\n'
        for problem in problems(tmp_path, text):
            assert problem.isprintable()

    def test_a_bad_value_is_reported_even_where_it_is_overridden(self, tmp_path: Path) -> None:
        found = problems(tmp_path, "service:\n  port: x\n", {"STREAMING_API_PORT": "1"})
        assert len(found) == 1

    def test_what_does_not_go_together_is_reported_with_the_line(self, tmp_path: Path) -> None:
        found = problems(tmp_path, "security:\n  require_keys: true\n  tls_key: /nowhere\n")
        assert [problem.partition(" found")[0] for problem in found] == [
            "streaming-api.yaml:2: security.require_keys:",
            "streaming-api.yaml:3: security.tls_key:",
        ]


class TestEnvironment:
    """Variables, their spelling, and which are ours."""

    @pytest.mark.parametrize("word", ["true", "TRUE", "1", "yes", "On", " on "])
    def test_there_are_several_words_for_true(self, tmp_path: Path, word: str) -> None:
        assert loaded(tmp_path, "sse: {enabled: false}", {"SSE_ENABLED": word}).config.sse_enabled

    @pytest.mark.parametrize("word", ["false", "False", "0", "no", "OFF"])
    def test_there_are_several_words_for_false(self, word: str) -> None:
        assert not load(None, {"WEBSOCKET_ENABLED": word}).config.websocket_enabled

    @pytest.mark.parametrize(
        ("name", "text"),
        [
            ("WEBSOCKET_ENABLED", "maybe"),
            ("WEBSOCKET_ENABLED", ""),
            ("STREAMING_API_PORT", ""),
            ("STREAMING_API_PORT", "1.9"),
            ("STREAMING_API_PORT", "true"),
            ("STREAMING_API_PORT", "1_000"),
            ("STREAMING_API_PORT", "٣"),
            ("STREAMING_RESUME_GRACE", "nan"),
            ("STREAMING_RESUME_GRACE", "1e9999"),
            ("STREAMING_QUERIES", "{"),
            ("STREAMING_QUERIES", "up"),
            ("STREAMING_API_KEYS", "[{]"),
            ("STREAMING_API_KEYS", "hunter2"),
            ("API_GATEWAY_ENDPOINT", "gateway"),
            ("STREAMING_TRUSTED_PROXIES", "10.0.0.1/8"),
        ],
    )
    def test_values_that_do_not_fit_name_the_variable(self, name: str, text: str) -> None:
        with pytest.raises(ConfigError) as caught:
            load(None, {name: text})
        (problem,) = caught.value.problems
        assert problem.source == f"environment {name}"
        assert "hunter2" not in str(problem)

    def test_ours_are_named_streaming_and_their_name(self) -> None:
        environ = {"STREAMING_RESUME_GRACE": "2", "STREAMING_STALL_TIMEOUT": "0.5"}
        result = load(None, environ)
        assert (result.config.resume_grace, result.config.stall_timeout) == (2, 0.5)
        assert result.origins["resume_grace"] == "environment STREAMING_RESUME_GRACE"

    def test_an_unknown_variable_of_ours_is_a_problem_with_a_suggestion(self) -> None:
        with pytest.raises(ConfigError) as caught:
            load(None, {"STREAMING_API_PROT": "1", "STREAMING_RESUME_GRAZE": "1"})
        assert [str(problem) for problem in caught.value.problems] == [
            "environment STREAMING_API_PROT: is not a setting (did you mean STREAMING_API_PORT?)",
            ("environment STREAMING_RESUME_GRAZE: is not a setting "
            "(did you mean STREAMING_RESUME_GRACE?)"),
        ]  # fmt: skip

    def test_variables_of_other_programs_are_left_alone(self) -> None:
        environ = {
            "WEBSOCKET_URL": "x",
            "SSE_X": "x",
            "CONNECTION_STRING": "x",
            "PATH": "x",
            "STREAMING_API_CONFIG": "x",
        }
        assert load(None, environ).config == StreamingConfig()

    def test_lists_are_words_between_commas_or_json(self) -> None:
        for text in ("http://a, http://b", '["http://a", "http://b"]'):
            config = load(None, {"STREAMING_ALLOWED_ORIGINS": text}).config
            assert config.allowed_origins == ("http://a", "http://b")
        assert load(None, {"STREAMING_ALLOWED_ORIGINS": ""}).config.allowed_origins == ()

    def test_an_empty_variable_unsets_an_endpoint(self, tmp_path: Path) -> None:
        text = "monitoring:\n  api_gateway_endpoint: http://127.0.0.1:1\n"
        result = loaded(tmp_path, text, {"API_GATEWAY_ENDPOINT": ""})
        assert result.config.api_gateway_endpoint is None

    def test_keys_and_queries_are_json(self) -> None:
        environ = {"STREAMING_API_KEYS": json.dumps([KEY]), "STREAMING_QUERIES": '{"a": "up"}'}
        config = load(None, environ).config
        assert (config.api_keys[0].name, config.queries) == ("wall", {"a": "up"})

    @pytest.mark.parametrize(
        "text", [json.dumps([KEY]), f"- {{name: wall, sha256: {SHA}, scopes: [watch]}}\n"]
    )
    def test_keys_come_from_a_systemd_credential(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "api_keys").write_text(text)
        result = load(None, {"CREDENTIALS_DIRECTORY": str(tmp_path)})
        assert result.config.api_keys[0].sha256 == SHA
        assert result.origins["api_keys"] == "api_keys:1"

    @pytest.mark.parametrize("key", ["sk-abc", "0123", "yes", "a: #b"])
    def test_the_gateways_key_comes_from_a_systemd_credential(
        self, tmp_path: Path, key: str
    ) -> None:
        (tmp_path / "api_gateway_key").write_text(f"{key}\n")
        environ = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
        if " " in key:  # no header can hold it
            with pytest.raises(ConfigError) as caught:
                load(None, environ)
            assert key not in str(caught.value)
        else:
            result = load(None, environ)
            assert result.config.gateway_api_key == key
            assert result.origins["gateway_api_key"] == "api_gateway_key:1"

    def test_the_store_comes_from_a_systemd_credential_and_is_not_shown(
        self, tmp_path: Path
    ) -> None:
        url = "rediss://streaming:hunter2@store.example:6379?ssl_ca_certs=/etc/ca.pem"
        (tmp_path / "cluster").write_text(f"{url}\n")
        result = load(None, {"CREDENTIALS_DIRECTORY": str(tmp_path)})
        assert result.config.cluster_url == url
        assert result.origins["cluster_url"] == "cluster:1"
        (tmp_path / "cluster").write_text("http://:hunter2@127.0.0.1\n")
        with pytest.raises(ConfigError) as caught:
            load(None, {"CREDENTIALS_DIRECTORY": str(tmp_path)})
        assert "hunter2" not in str(caught.value)

    def test_a_fault_in_a_credential_names_its_line_and_not_its_text(self, tmp_path: Path) -> None:
        (tmp_path / "api_keys").write_text("- name: wall\n  sha256: hunter2\n  scopes: [chat]\n")
        with pytest.raises(ConfigError) as caught:
            load(None, {"CREDENTIALS_DIRECTORY": str(tmp_path)})
        (problem,) = caught.value.problems
        assert (problem.source, problem.line) == (str(tmp_path / "api_keys"), 2)
        assert "hunter2" not in str(problem)

    def test_credentials_that_cannot_be_read_are_a_fault_and_not_no_keys(
        self, tmp_path: Path
    ) -> None:
        folder = tmp_path / ("x" * 300)
        with pytest.raises(ConfigError, match="api_keys: cannot be read: File name too long"):
            load(None, {"CREDENTIALS_DIRECTORY": str(folder)})

    def test_a_folder_of_credentials_without_keys_is_fine(self, tmp_path: Path) -> None:
        assert load(None, {"CREDENTIALS_DIRECTORY": str(tmp_path)}).config.api_keys == ()


class TestPrecedence:
    """Command line, environment, YAML, defaults."""

    def test_the_nearer_source_wins_and_is_named(self, tmp_path: Path) -> None:
        path = written(tmp_path, "service:\n  port: 1\n  host: 127.0.0.2\n  workers: 3\n")
        environ = {"STREAMING_API_PORT": "2", "STREAMING_API_HOST": "127.0.0.3"}
        result = load(path, environ, {"port": 3})
        config, origins = result.config, result.origins
        assert (config.port, config.host, config.workers) == (3, "127.0.0.3", 3)
        assert origins["port"] == "command line"
        assert origins["host"] == "environment STREAMING_API_HOST"
        assert origins["workers"] == "streaming-api.yaml:4"
        assert origins["batch_size"] == "default"
        assert set(origins) == set(SETTINGS)

    def test_a_bad_value_on_the_command_line_is_reported_as_such(self) -> None:
        with pytest.raises(ConfigError, match=r"command line: service\.port: found 70000"):
            load(None, {}, {"port": 70000})

    def test_keys_from_the_environment_win_over_a_credential(self, tmp_path: Path) -> None:
        (tmp_path / "api_keys").write_text(json.dumps([KEY]))
        other = json.dumps([{**KEY, "name": "other"}])
        environ = {"CREDENTIALS_DIRECTORY": str(tmp_path), "STREAMING_API_KEYS": other}
        assert [key.name for key in load(None, environ).config.api_keys] == ["other"]


class TestEnvironmentFile:
    """Read as systemd reads an EnvironmentFile."""

    @pytest.mark.parametrize(
        ("text", "value"),
        [
            ("A=b", "b"),
            ("  A = b c  \n", "b c"),
            ("A=", ""),
            ("A=b # c", "b # c"),
            ("A='b  c' ", "b  c"),
            ("A='b\\n\"'", 'b\\n"'),
            ('A="b \\"c\\" \\$d \\n"', 'b "c" $d \\n'),
            ('A="b\nc"', "b\nc"),
            ("A=b\\\nc", "bc"),
            ('A="b\\\nc"', "bc"),
            ("A='b'\"c\"d", "bcd"),
            ("A=b'c'", "b'c'"),
            ("A=b\\ ", "b "),
            ("A=\\\\", "\\"),
            ("A=1\nA=b", "b"),
            ("# A=1\n; A=2\n\nA=b\r\n", "b"),
            ("\ufeffA=b", "b"),
            ("A=a=b", "a=b"),
            ("A=b\\", "b"),
        ],
    )
    def test_values_of_an_environment_file_are_read_as_systemd_does(
        self, tmp_path: Path, text: str, value: str
    ) -> None:
        path = tmp_path / "x.env"
        path.write_text(text, newline="")
        assert read_env_file(path) == {"A": value}

    def test_what_systemd_would_pass_over_is_a_problem_with_its_line(self, tmp_path: Path) -> None:
        path = tmp_path / "x.env"
        path.write_text("A=1\nexport B=2\n9=3\nhello\nC='open\n")
        with pytest.raises(ConfigError) as caught:
            read_env_file(path)
        assert [problem.line for problem in caught.value.problems] == [2, 3, 4, 5]

    def test_an_environment_file_that_is_not_there_is_a_problem(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="cannot be read"):
            read_env_file(tmp_path / "none.env")


class TestTables:
    """What is printed for people."""

    def test_the_effective_configuration_has_one_line_a_setting_and_no_secret(self) -> None:
        environ = {"STREAMING_API_KEYS": json.dumps([KEY]), "API_GATEWAY_KEY": "hunter2"}
        text = effective(load(None, environ))
        assert len(text.splitlines()) == len(SETTINGS)
        assert "hunter2" not in text
        assert SHA not in text
        assert re.search(
            r"^security.api_keys +\(set\) +environment STREAMING_API_KEYS$", text, re.MULTILINE
        )
        assert re.search(r"^monitoring.queries +\(not set\) +default$", text, re.MULTILINE)

    def test_the_markdown_table_has_one_row_a_setting(self) -> None:
        assert len(markdown_table().splitlines()) == len(SETTINGS) + 2

    def test_the_example_file_holds_every_setting_and_the_defaults(self) -> None:
        assert load(EXAMPLE, {}).config == StreamingConfig()
        section = ""
        named = set()
        for line in EXAMPLE.read_text().splitlines():
            if top := re.match(r"(\w+):", line):
                section = top[1]
            elif key := re.match(r"  (?:# )?(\w+):", line):
                named.add(f"{section}.{key[1]}")
        assert named == {row.path for row in SETTINGS.values()}

    def test_the_example_file_reaches_no_other_machine(self) -> None:
        addresses = re.findall(r"\d+\.\d+\.\d+\.\d+", EXAMPLE.read_text())
        assert set(addresses) <= {"127.0.0.1", "0.0.0.0", "10.0.0.0"}


SYNTAX = "ab=:[]{}-&*!?|>'\"# \n\t\\,%@<~0.é\x00"
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=8,
)


def is_reported(attempt: Callable[[], object]) -> bool:
    """Whether an attempt ends well, or in problems of one line each; other exceptions pass."""
    try:
        attempt()
    except ConfigError as error:
        return all(str(problem).isprintable() for problem in error.problems)
    return True


class TestAnyInput:
    """Whatever comes in, the answer is a configuration or problems; never another exception."""

    @given(name=st.sampled_from(sorted(SETTINGS)), value=VALUES)
    @settings(max_examples=300, deadline=None, database=None)
    def test_any_value_for_any_setting_is_taken_or_a_problem(
        self, name: str, value: object
    ) -> None:
        assert is_reported(lambda: StreamingConfig(**{name: value}))  # type: ignore[arg-type]

    @given(name=st.sampled_from(sorted(SETTINGS)), text=st.text(max_size=40))
    @settings(max_examples=300, deadline=None, database=None)
    def test_any_text_in_any_variable_is_taken_or_a_problem(self, name: str, text: str) -> None:
        assert is_reported(lambda: load(None, {SETTINGS[name].env: text}))

    @given(text=st.text(alphabet=st.sampled_from(SYNTAX)) | st.binary(max_size=60))
    @settings(max_examples=300, deadline=None, database=None)
    def test_any_file_is_taken_or_a_problem(
        self, tmp_path_factory: pytest.TempPathFactory, text: str | bytes
    ) -> None:
        path = written(tmp_path_factory.getbasetemp(), text)
        assert is_reported(lambda: load(path, {}))
        assert is_reported(lambda: read_env_file(path))
