"""The TLS certificate in service: renewed when its files change, and its days counted."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from streaming_api.config.certificate import CertificateError, load_key_pair

logger = logging.getLogger(__name__)

RELOAD_SECONDS: Final = 5.0
"""Seconds between two looks at the files."""
WARN_BEFORE: Final = timedelta(days=14)
"""How long before a certificate's expiry the warnings begin."""

Stamp = tuple[tuple[int, int, int], ...]
"""Time, size and inode of each file; any change shows that the files have changed."""


class Certificate:
    """The certificate that new handshakes get.

    A certificate that replaces another is loaded into a context of its own: a live context would
    lose the old one before it finds that the new key does not fit, and would keep an old one of
    another kind of key beside the new one.

    Args:
        certificate: PEM file with the chain.
        key: PEM file with its private key.

    Attributes:
        context: the context to listen with; each handshake gets the current certificate.

    Raises:
        CertificateError: the files cannot be served.
    """

    def __init__(self, certificate: Path, key: Path) -> None:
        self._files = (certificate, key)
        self._stamp = self._stamped()
        self._pair = load_key_pair(certificate, key)
        self._fault: str | None = None
        self.context = self._pair.context
        self.context.sni_callback = self._hand_out  # called for every ClientHello, named or not

    @property
    def not_after(self) -> datetime:
        """When the first certificate of the chain in service expires."""
        return self._pair.not_after

    @property
    def days_left(self) -> float:
        """Days until that certificate expires; negative afterwards."""
        return (self.not_after - datetime.now(UTC)) / timedelta(days=1)

    def warning(self) -> str | None:
        """Return a sentence where somebody has to renew or repair the certificate, else None."""
        if self._fault is not None:
            return f"The TLS certificate cannot be renewed, the old one goes on: {self._fault}."
        days = self.days_left
        if days < 0:
            return f"The TLS certificate has expired on {self.not_after:%Y-%m-%d}; renew it."
        if days < WARN_BEFORE / timedelta(days=1):
            return f"The TLS certificate expires on {self.not_after:%Y-%m-%d}; renew it."
        return None

    async def keep_reloading(self, warn: Callable[[str | None], None]) -> None:
        """Look at the files every few seconds; handshakes after a change get the new certificate.

        Args:
            warn: called with the `warning` whenever it changes.
        """
        logged: str | None = None
        while True:
            warning = self.warning()
            if warning != logged:
                logged = warning
                if warning is not None:
                    logger.warning("%s", warning)
                warn(warning)
            await asyncio.sleep(RELOAD_SECONDS)
            self._reload()

    def _reload(self) -> None:
        try:
            stamp = self._stamped()
            if stamp == self._stamp:
                self._fault = None
                return
            self._pair = load_key_pair(*self._files)
        except CertificateError as error:  # the other file may still be on its way
            self._fault = str(error)
        except OSError as error:
            self._fault = f"a file cannot be read ({error.strerror})"
        else:
            self._stamp = stamp
            self._fault = None
            logger.info("the TLS certificate has changed and is loaded")

    def _stamped(self) -> Stamp:
        found = (file.stat() for file in self._files)
        return tuple((stat.st_mtime_ns, stat.st_size, stat.st_ino) for stat in found)

    def _hand_out(self, handshake: ssl.SSLObject, _name: str | None, _: ssl.SSLContext) -> None:
        handshake.context = self._pair.context
