"""Variables: secrets from files, YAML beside JSON, and what others set under names like ours."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from streaming_api.config import ConfigError, StreamingConfig, load
from streaming_api.serving.descriptors import shortage

HASH = "a" * 64
YAML = f"- name: page\n  sha256: {HASH}\n  scopes: [chat, watch]\n"
FORMS = (
    f'[{{"name": "page", "sha256": "{HASH}", "scopes": ["chat", "watch"]}}]',
    f"[{{name: page, sha256: {HASH}, scopes: [chat, watch]}}]",
    YAML,
)


@pytest.mark.parametrize("text", FORMS)
def test_keys_are_json_or_yaml(text: str) -> None:
    (key,) = load(None, {"STREAMING_API_KEYS": text}).config.api_keys
    assert (key.name, key.sha256, sorted(key.scopes)) == ("page", HASH, ["chat", "watch"])


def test_queries_are_json_or_yaml() -> None:
    for text in ('{"up": "sum(up)"}', "up: sum(up)", "{up: sum(up)}"):
        assert load(None, {"STREAMING_QUERIES": text}).config.queries == {"up": "sum(up)"}


@pytest.mark.parametrize("text", ["[{name: page", "- name: &a page\n"])
def test_what_is_neither_json_nor_yaml_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="a list in JSON or YAML"):
        load(None, {"STREAMING_API_KEYS": text})


@pytest.mark.parametrize(
    ("variable", "setting", "text", "value"),
    [
        ("API_GATEWAY_KEY", "gateway_api_key", "s3cret\n", "s3cret"),
        ("STREAMING_CLUSTER", "cluster_url", "redis://127.0.0.1:1\n", "redis://127.0.0.1:1"),
    ],
)
def test_a_secret_comes_from_a_file(
    tmp_path: Path, variable: str, setting: str, text: str, value: str
) -> None:
    file = tmp_path / "secret"
    file.write_text(text)
    loaded = load(None, {f"{variable}_FILE": str(file)})
    assert getattr(loaded.config, setting) == value


def test_keys_come_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(YAML)
    assert load(None, {"STREAMING_API_KEYS_FILE": str(file)}).config.api_keys[0].name == "page"


def test_a_file_that_is_not_there_and_one_too_many_are_reported(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load(None, {"API_GATEWAY_KEY_FILE": str(tmp_path / "none")})
    with pytest.raises(ConfigError, match="API_GATEWAY_KEY; keep one") as caught:
        load(None, {"API_GATEWAY_KEY_FILE": "x", "API_GATEWAY_KEY": "s3cret"})
    assert "s3cret" not in str(caught.value)
    with pytest.raises(ConfigError, match="is not a setting"):
        load(None, {"STREAMING_RESUME_GRACE_FILE": "x"})  # no secret


def test_what_kubernetes_sets_for_a_service_of_this_name_is_passed_over() -> None:
    for name in ("STREAMING_API", "STREAMING", "STREAMING_API_CANARY"):
        theirs = {
            f"{name}_SERVICE_HOST": "10.0.0.1",
            f"{name}_SERVICE_PORT": "9096",
            f"{name}_SERVICE_PORT_HTTP": "9096",
            f"{name}_PORT": "tcp://10.0.0.1:9096",
            f"{name}_PORT_9096_TCP": "tcp://10.0.0.1:9096",
            f"{name}_PORT_9096_TCP_PROTO": "tcp",
            f"{name}_PORT_9096_TCP_PORT": "9096",
            f"{name}_PORT_9096_TCP_ADDR": "10.0.0.1",
        }
        assert load(None, theirs).config == StreamingConfig()
    assert load(None, {"STREAMING_API_PORT": "9"}).config.port == 9
    with pytest.raises(ConfigError, match=r"service\.port"):
        load(None, {"STREAMING_API_PORT": "tcp"})


def test_limits_above_the_descriptors_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (100, 1_000))
    words = shortage(StreamingConfig(max_connections=900), 2)
    assert words is not None
    assert "1628 file descriptors in each worker, and the system gives 1000" in words
    assert shortage(StreamingConfig(max_connections=100, sse_max_connections=100)) is None
