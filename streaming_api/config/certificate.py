"""A TLS certificate and its key, in files: whether they can be served, and until when.

Opens no socket. The dates are read from the certificate's own bytes, because the standard library
shows those of a peer only.
"""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Never

import attrs

_PEM: Final = re.compile(
    rb"-----BEGIN ((?:X509 |TRUSTED )?CERTIFICATE)-----.+?-----END \1-----", re.DOTALL
)
_UTC_TIME: Final = 0x17


class CertificateError(ValueError):
    """A certificate or key that cannot be served; the message is one sentence.

    Attributes:
        setting: the file at fault, ``tls_certificate`` or ``tls_key``.
    """

    def __init__(self, setting: str, message: str) -> None:
        super().__init__(message)
        self.setting = setting


@attrs.frozen
class Validity:
    """The first and last moment at which a certificate is valid (RFC 5280, section 4.1.2.5)."""

    not_before: datetime
    not_after: datetime


@attrs.frozen
class KeyPair:
    """A certificate chain with its private key, ready to be served.

    Attributes:
        context: a TLS context for servers that holds both.
        not_after: when the first certificate of the chain expires.
    """

    context: ssl.SSLContext
    not_after: datetime


def load_key_pair(certificate: Path, key: Path) -> KeyPair:
    """Read both files once, and check that they can be served now.

    Raises:
        CertificateError: a file cannot be read, the key does not fit, or the server's own
            certificate has expired or is not valid yet.
    """
    chain, secret = _read("tls_certificate", certificate), _read("tls_key", key)
    validities = _validities(chain)
    _require_valid_now(validities[0])
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    # What was read is what is loaded, even if the files change meanwhile.
    with _file_in_memory(chain) as certificate_file, _file_in_memory(secret) as key_file:
        try:
            context.load_cert_chain(certificate_file, key_file, password=_no_password)
        except _EncryptedKey:
            message = "found a key that is encrypted, needs one without a passphrase"
            raise CertificateError("tls_key", message) from None
        except ssl.SSLError as error:
            raise _refusal(error) from None
    return KeyPair(context, min(validity.not_after for validity in validities))


def _read(setting: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        message = f"found a file that cannot be read ({error.strerror}), needs a PEM file"
        raise CertificateError(setting, message) from None


def _validities(chain: bytes) -> list[Validity]:
    found = [block[0].decode("ascii", "replace") for block in _PEM.finditer(chain)]
    if not found:
        message = "found a file without a complete certificate, needs PEM (BEGIN CERTIFICATE)"
        raise CertificateError("tls_certificate", message)
    try:
        # OpenSSL's own parser goes first: what it takes is well-formed.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(cadata="\n".join(found))
        plain = (re.sub("(X509|TRUSTED) ", "", pem) for pem in found)
        return [validity(ssl.PEM_cert_to_DER_cert(pem)) for pem in plain]
    except (ssl.SSLError, ValueError, IndexError):
        message = "found a certificate that cannot be read, needs PEM with a whole certificate"
        raise CertificateError("tls_certificate", message) from None


def _require_valid_now(leaf: Validity) -> None:
    now = datetime.now(UTC)
    if now > leaf.not_after:
        message = f"found a certificate that has expired on {_day(leaf.not_after)}; renew it"
        raise CertificateError("tls_certificate", message)
    if now < leaf.not_before:
        message = (
            f"found a certificate that is not valid before {_day(leaf.not_before)};"
            f" the clock of this machine says {_day(now)}"
        )
        raise CertificateError("tls_certificate", message)


def _day(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"


class _EncryptedKey(Exception):
    pass


def _no_password() -> Never:
    """Refuse to ask for a password: nobody sits at a terminal."""
    raise _EncryptedKey


def _refusal(error: ssl.SSLError) -> CertificateError:
    match error.reason:
        # The last: OpenSSL looks for a certificate of the key's type, where RSA became ECDSA.
        case "KEY_VALUES_MISMATCH" | "KEY_TYPE_MISMATCH" | "NO_CERTIFICATE_ASSIGNED":
            message = "found a key that does not fit the certificate; both must be of one renewal"
            return CertificateError("tls_key", message)
        case "EE_KEY_TOO_SMALL" | "CA_KEY_TOO_SMALL" | "CA_MD_TOO_WEAK":
            message = f"found a certificate that is too weak for OpenSSL ({error.reason})"
            return CertificateError("tls_certificate", message)
    message = "found no whole private key, needs PEM (BEGIN PRIVATE KEY to END PRIVATE KEY)"
    return CertificateError("tls_key", message)


@contextmanager
def _file_in_memory(content: bytes) -> Iterator[str]:
    """Yield a path to this content: OpenSSL reads only from paths, and keys stay off the disk."""
    descriptor = os.memfd_create("tls", os.MFD_CLOEXEC)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(content)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


# The dates


def validity(der: bytes) -> Validity:
    """Return a certificate's dates: Certificate.tbsCertificate.validity (RFC 5280, section 4.1).

    Raises:
        ValueError, IndexError: it is not well-formed.
    """
    _, at, _ = _element(der, 0)
    _, at, _ = _element(der, at)
    tag, _, end = _element(der, at)
    if tag == 0xA0:  # the version, which a certificate of version 1 leaves out
        at = end
    for _ in ("serialNumber", "signature", "issuer"):
        _, _, at = _element(der, at)
    _, at, _ = _element(der, at)
    not_before, at = _time(der, at)
    not_after, _ = _time(der, at)
    return Validity(not_before, not_after)


def _element(der: bytes, at: int) -> tuple[int, int, int]:
    """Return an element's tag, and where its contents begin and end (X.690, section 8.1)."""
    tag, length, start = der[at], der[at + 1], at + 2
    if length & 0x80:
        size = length & 0x7F
        length = int.from_bytes(der[start : start + size])
        start += size
    return tag, start, start + length


def _time(der: bytes, at: int) -> tuple[datetime, int]:
    tag, start, end = _element(der, at)
    text = der[start:end].decode("ascii")
    if tag == _UTC_TIME:  # the year has two digits: 1950 to 2049
        text = ("19" if text >= "50" else "20") + text
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC), end
