"""Certificates for tests, as OpenSSL's own programs make them."""

from __future__ import annotations

import ssl
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

EC: Final = ("ec", "-pkeyopt", "ec_paramgen_curve:P-256")
RSA: Final = ("rsa:2048",)
_CA: Final = """\
[ca]
default_ca = own
[own]
database = {folder}/index.txt
serial = {folder}/serial
new_certs_dir = {folder}
default_md = sha256
policy = names
x509_extensions = extensions
[names]
commonName = supplied
[extensions]
subjectAltName = IP:127.0.0.1
"""


def make_certificate(
    folder: Path,
    name: str = "one",
    *,
    days: tuple[float, float] = (0, 1),
    kind: tuple[str, ...] = EC,
) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that signed itself, and its key; replaced as certbot does.

    Args:
        folder: where ``certificate.pem`` and ``key.pem`` are put.
        name: whom it names.
        days: from now, when its validity begins and ends.
        kind: of key.
    """
    work = folder / name
    work.mkdir()
    certificate, key, asked = work / "certificate", work / "key", work / "request"
    (work / "index.txt").touch()
    (work / "ca.cnf").write_text(_CA.format(folder=work))
    begins, ends = (f"{datetime.now(UTC) + timedelta(days=day):%Y%m%d%H%M%SZ}" for day in days)
    _openssl("req", "-new", "-newkey", *kind, "-nodes", "-subj", f"/CN={name}",
             "-keyout", key, "-out", asked)  # fmt: skip
    _openssl("ca", "-batch", "-selfsign", "-config", work / "ca.cnf", "-create_serial", "-notext",
             "-startdate", begins, "-enddate", ends,
             "-keyfile", key, "-in", asked, "-out", certificate)  # fmt: skip
    return (certificate.replace(folder / "certificate.pem"), key.replace(folder / "key.pem"))


def server_tls(folder: Path) -> tuple[Path, ssl.SSLContext]:
    """A certificate for 127.0.0.1 that nobody trusts, and a server's TLS with it."""
    certificate, key = make_certificate(folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return certificate, context


def encrypt(key: Path) -> None:
    """Put a passphrase on a key."""
    new = key.with_suffix(".encrypted")
    _openssl("pkey", "-aes256", "-passout", "pass:secret", "-in", key, "-out", new)
    new.replace(key)


def _openssl(*words: str | Path) -> None:
    done = subprocess.run(["openssl", *words], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
