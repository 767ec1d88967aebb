"""TLS: what is refused at the start, and what a renewal that fails leaves in service."""

from __future__ import annotations

import logging
import ssl
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import httpx
import pytest

from streaming_api.config import ConfigError, StreamingConfig
from streaming_api.service import StreamingService
from streaming_api.serving import tls
from tests.certificates import RSA, encrypt, make_certificate
from tests.clients import eventually, http
from tests.conftest import StartServer

UNREADABLE: Final = Path("/proc/self/mem")
"""A file that is there, and whose first byte nobody can read, not even root."""


def trusting(certificate: Path) -> ssl.SSLContext:
    """What trusts this certificate and no other."""
    return ssl.create_default_context(cafile=str(certificate))


async def handshake(server: StreamingService, trust: ssl.SSLContext) -> None:
    """Fail unless the server shows a certificate that is trusted."""
    async with httpx.AsyncClient(trust_env=False, verify=trust, timeout=5) as client:
        assert (await client.get(f"{server.url}/health")).status_code == 200


def other_key(certificate: Path, key: Path) -> None:
    kept = certificate.read_bytes()
    make_certificate(certificate.parent, "other")
    certificate.write_bytes(kept)
    assert key.exists()


def key_of_another_type(certificate: Path, _key: Path) -> None:
    """As when a renewal changes from ECDSA to RSA."""
    kept = certificate.read_bytes()
    make_certificate(certificate.parent, "other", kind=RSA)
    certificate.write_bytes(kept)


def halve(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def garble(certificate: Path) -> None:
    """Still PEM, but no certificate inside."""
    lines = certificate.read_text().splitlines()
    certificate.write_text("\n".join([lines[0], *lines[2:-1], lines[-1]]))


def unreadable(path: Path) -> None:
    path.unlink()
    path.symlink_to(UNREADABLE)


FAULTS: Final[dict[str, tuple[Callable[[Path, Path], None], str, str]]] = {
    "another key": (other_key, "tls_key", "does not fit the certificate"),
    "a key of another type": (key_of_another_type, "tls_key", "does not fit the certificate"),
    "half a key": (lambda _, key: halve(key), "tls_key", "no whole private key"),
    "an empty key": (lambda _, key: empty(key), "tls_key", "no whole private key"),
    "an encrypted key": (lambda _, key: encrypt(key), "tls_key", "encrypted"),
    "an unreadable key": (lambda _, key: unreadable(key), "tls_key", "cannot be read"),
    "half a certificate": (lambda pem, _: halve(pem), "tls_certificate", "a complete certificate"),
    "a garbled certificate": (lambda pem, _: garble(pem), "tls_certificate", "cannot be read"),
    "an unreadable certificate": (
        lambda pem, _: unreadable(pem), "tls_certificate", "cannot be read",
    ),
}  # fmt: skip


class TestAtTheStart:
    @pytest.mark.parametrize(("spoil", "setting", "words"), FAULTS.values(), ids=FAULTS)
    def test_what_cannot_be_served_is_named(
        self, spoil: Callable[[Path, Path], None], setting: str, words: str, tmp_path: Path
    ) -> None:
        certificate, key = make_certificate(tmp_path)
        spoil(certificate, key)
        with pytest.raises(ConfigError) as refused:
            StreamingConfig(tls_certificate=certificate, tls_key=key)
        (problem,) = refused.value.problems
        assert problem.path == setting
        assert words in problem.message

    @pytest.mark.parametrize(
        ("days", "words"),
        [((-9, -1), "has expired on 2"), ((1, 9), "is not valid before 2")],
        ids=["expired", "not yet valid"],
    )
    @pytest.mark.parametrize("command", ["check", "serve"])
    def test_a_certificate_out_of_its_time_is_named_and_nothing_is_started(
        self, command: str, days: tuple[float, float], words: str, tmp_path: Path
    ) -> None:
        certificate, key = make_certificate(tmp_path, days=days)
        file = tmp_path / "streaming-api.yaml"
        file.write_text(f"security:\n  tls_certificate: {certificate}\n  tls_key: {key}\n")
        done = subprocess.run(
            [sys.executable, "-m", "streaming_api", command, "--config", file],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1
        assert f"{file}:2: security.tls_certificate: " in done.stderr
        assert f"found a certificate that {words}" in done.stderr

    @pytest.mark.parametrize("kind", [("ed25519",), RSA], ids=["ed25519", "rsa"])
    @pytest.mark.parametrize("years", [20, 40], ids=["UTCTime", "GeneralizedTime"])
    def test_the_end_of_a_certificate_is_read_in_every_form(
        self, kind: tuple[str, ...], years: int, tmp_path: Path
    ) -> None:
        certificate, key = make_certificate(tmp_path, kind=kind, days=(-1, 365 * years))
        found = tls.Certificate(certificate, key)
        meant = datetime.now(UTC) + timedelta(days=365 * years)
        assert abs(found.not_after - meant) < timedelta(minutes=5)

    def test_the_first_to_expire_of_a_chain_counts(self, tmp_path: Path) -> None:
        above, _ = make_certificate(tmp_path, "above", days=(-1, 3))
        added = above.read_bytes()
        certificate, key = make_certificate(tmp_path, days=(-1, 60))
        certificate.write_bytes(certificate.read_bytes() + added)
        assert 2.9 < tls.Certificate(certificate, key).days_left < 3


class TestARenewal:
    @pytest.fixture(autouse=True)
    def _quick(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tls, "RELOAD_SECONDS", 0.01)

    @pytest.mark.parametrize(
        "spoil", [one[0] for one in FAULTS.values()] + [None], ids=[*FAULTS, "expired"]
    )
    async def test_a_renewal_that_fails_leaves_the_old_one_in_service_and_says_so(
        self, start_server: StartServer, tmp_path: Path, caplog: pytest.LogCaptureFixture,
        spoil: Callable[[Path, Path], None] | None,
    ) -> None:  # fmt: skip
        """First a new certificate with what is wrong about it, then a whole one."""
        certificate, key = make_certificate(tmp_path, "one", days=(-1, 90))
        server = await start_server(tls_certificate=certificate, tls_key=key)
        old = trusting(certificate)
        assert self.reason(server) is None
        staging = tmp_path / "staging"
        staging.mkdir()
        days = (-9.0, -1.0) if spoil is None else (-1.0, 90.0)
        new = make_certificate(staging, "two", days=days)
        if spoil is not None:
            spoil(*new)
        for path, target in zip(new, (certificate, key), strict=True):
            path.replace(target)
        await eventually(lambda: self.reason(server) is not None)
        for _ in range(3):
            await handshake(server, old)
        assert "the old one goes on" in (self.reason(server) or "")
        assert sum("the old one goes on" in line for line in caplog.messages) == 1
        make_certificate(tmp_path, "three", days=(-1, 90))
        await eventually(lambda: self.reason(server) is None)
        await handshake(server, trusting(certificate))
        with pytest.raises(httpx.ConnectError):
            await handshake(server, old)

    @staticmethod
    def reason(server: StreamingService) -> str | None:
        return server.context.topics.components()["streaming-api"]["reason"]

    async def test_a_renewal_with_another_kind_of_key_replaces_the_old_one_for_everybody(
        self, start_server: StartServer, tmp_path: Path
    ) -> None:
        """A live context would keep an RSA certificate beside a new one of another kind."""
        certificate, key = make_certificate(tmp_path, "one", kind=RSA, days=(-1, 90))
        server = await start_server(tls_certificate=certificate, tls_key=key)
        old = trusting(certificate)
        for context in (old, rsa_only := trusting(certificate)):
            context.maximum_version = ssl.TLSVersion.TLSv1_2
        rsa_only.set_ciphers("aRSA")
        await handshake(server, rsa_only)
        make_certificate(tmp_path, "two", days=(-1, 30))
        before = server.context.certificate
        assert before is not None
        await eventually(lambda: before.days_left < 31)
        await handshake(server, trusting(certificate))
        with pytest.raises(httpx.ConnectError):
            await handshake(server, old)
        with pytest.raises(httpx.ConnectError):
            await handshake(server, rsa_only)


async def test_a_page_of_its_own_host_without_tls_is_another_page(
    start_server: StartServer, tmp_path: Path
) -> None:
    """Who controls the plain port of this host, or the line to it, is not this server."""
    certificate, key = make_certificate(tmp_path)
    server = await start_server(tls_certificate=certificate, tls_key=key)
    async with http(server.url) as client:
        for origin, status in ((server.url, 200), (server.url.replace("https", "http"), 403)):
            reply = await client.get("/health", headers={"Origin": origin})
            assert reply.status_code == status


class TestTheDaysLeft:
    async def test_the_days_left_are_a_metric_a_warning_in_the_log_and_in_the_status(
        self, start_server: StartServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.WARNING)
        certificate, key = make_certificate(tmp_path, days=(-1, 5))
        server = await start_server(tls_certificate=certificate, tls_key=key)
        async with http(server.url) as client:
            scraped = (await client.get("/metrics")).text
            found = (await client.get("/streaming/status")).json()
        name = "streaming_tls_certificate_expiry_timestamp_seconds "
        line = next(line for line in scraped.splitlines() if line.startswith(name))
        left = float(line.removeprefix(name)) - datetime.now(UTC).timestamp()
        assert 4.9 < left / 86_400 < 5
        assert 4.9 < found["tls"]["days_left"] <= 5
        assert "expires on 2" in found["tls"]["warning"]
        assert found["components"]["streaming-api"]["state"] == "up"
        assert found["components"]["streaming-api"]["reason"] == found["tls"]["warning"]
        assert sum("expires on 2" in line for line in caplog.messages) == 1

    async def test_the_days_left_are_sent_to_nobody_without_tls(
        self, start_server: StartServer
    ) -> None:
        server = await start_server()
        async with http(server.url) as client:
            assert "streaming_tls" not in (await client.get("/metrics")).text
            assert (await client.get("/streaming/status")).json()["tls"] is None
