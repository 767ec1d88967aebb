"""Idempotency keys: which answer a client's retries are about. Knows no HTTP.

IETF draft-ietf-httpapi-idempotency-key-header. A key is bound to one question and its answer for as
long as that answer runs well or is kept. One that failed, or that nobody waited for, binds nothing:
a retry is meant to ask again.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Final, Protocol

import attrs

from streaming_api.access.fair_table import FairTable
from streaming_api.answers.elsewhere import Elsewhere
from streaming_api.errors import ApiError, BadRequest, Gone, NotFound, Unprocessable
from streaming_api.wire import json_text
from streaming_api.wire.commands import new_request_id

if TYPE_CHECKING:
    from collections import Counter

    from streaming_api.access.client import Client
    from streaming_api.answers.answers import Answers
    from streaming_api.answers.watched_answer import WatchedAnswer
    from streaming_api.wire.commands import ChatRequest

LONGEST_KEY: Final = 255
RESULTS: Final = ("new", "joined", "replayed", "mismatched")
"""What can become of a request that carries a key."""
_MOST_KEYS: Final = 10_000
_QUOTED: Final = re.compile(r'"((?:[^"\\]|\\["\\])*)"')


@attrs.frozen
class Binding:
    """What a key is bound to.

    Attributes:
        request_id: the id of the answer.
        digest: the digest of the question.
        owner: the owner of the answer.
    """

    request_id: str
    digest: str
    owner: str = ""


class Bindings(Protocol):
    """Where bindings are kept: the memory of this process, or a store that several share."""

    def claim(self, name: str, binding: Binding, holder: str) -> Binding | None:
        """Bind a key unless it is bound; then change nothing and return what it is bound to."""

    def release(self, name: str, binding: Binding) -> None:
        """Unbind a key if it is bound to this."""


class LocalBindings:
    """Bindings in the memory of this process; the oldest go when there are too many."""

    def __init__(self, most: int = _MOST_KEYS) -> None:
        self._table: FairTable[Binding] = FairTable(most)

    def __len__(self) -> int:
        return len(self._table)

    def claim(self, name: str, binding: Binding, holder: str) -> Binding | None:
        """See `Bindings`."""
        bound = self._table.get(name)
        if bound is None:
            self._table.put(name, binding, holder)
        return bound

    def release(self, name: str, binding: Binding) -> None:
        """See `Bindings`."""
        if self._table.get(name) == binding:
            self._table.pop(name)


class Retries:
    """Starts answers such that a question with a key is asked only once.

    Args:
        answers: all answers.
        bindings: what keys are bound to.
        results: counts by `RESULTS`, kept up to date here.
    """

    def __init__(self, answers: Answers, bindings: Bindings, results: Counter[str]) -> None:
        self._answers = answers
        self._bindings = bindings
        self._results = results

    def start(self, key: str | None, request: ChatRequest, client: Client) -> WatchedAnswer:
        """Return the answer that the key is bound to; without a key or a binding, start a new one.

        Raises:
            Unprocessable: the key is bound to another question.
            ApiError: as in `Answers.start`.
        """
        if key is None:
            return self._answers.start(request, client)
        named = self._find(request.request_id, client) if request.chosen else None
        if named is not None and named.failed:  # its own id must not bring the failure back
            request = attrs.evolve(request, request_id=new_request_id())
        name = _name(key, client)
        digest = recognisable(request, key).digest
        mine = Binding(request.request_id, digest, client.owner)
        request = attrs.evolve(request, chosen=True)  # retries elsewhere must find it from now on
        while (bound := self._claim(name, mine, request, client)) is not None:
            answer = self._find(bound.request_id, client)
            if answer is None or answer.failed:
                self._bindings.release(name, bound)
                continue
            if bound.digest != mine.digest:
                self._results["mismatched"] += 1
                message = "This Idempotency-Key was used with another body; use a new one."
                raise Unprocessable(message, "idempotency_key_reused")
            self._results["joined" if answer.outcome is None else "replayed"] += 1
            return answer
        try:
            answer = self._answers.start(request, client)
        except ApiError:
            self._bindings.release(name, mine)
            raise
        self._results["new"] += 1
        return answer

    def _claim(
        self, name: str, mine: Binding, request: ChatRequest, client: Client
    ) -> Binding | None:
        try:
            return self._bindings.claim(name, mine, client.name)
        except Elsewhere as elsewhere:
            raise self._answers.holding(elsewhere, request, client) from None

    def _find(self, request_id: str, client: Client) -> WatchedAnswer | None:
        try:
            return self._answers.find(client.owner, request_id)
        except (NotFound, Gone):
            return None


def parse_key(values: list[str]) -> str | None:
    """Return the key in a header: a quoted string (RFC 9651, 3.3.3), or as most SDKs send it.

    Args:
        values: the value of each header of this name; if there are none, there is no key.

    Raises:
        BadRequest: the value is not a key.
    """
    if not values:
        return None
    key = values[0].strip()
    if quoted := _QUOTED.fullmatch(key):
        key = re.sub(r"\\(.)", r"\1", quoted[1])
    if len(set(values)) > 1 or not 1 <= len(key) <= LONGEST_KEY or not key.isprintable():
        message = f"Idempotency-Key must be one of 1 to {LONGEST_KEY} printable characters."
        raise BadRequest(message, "invalid_value", param="Idempotency-Key")
    return key


def _name(key: str, client: Client) -> str:
    """Return this client's key, with its credential: the gateway answered for that one alone."""
    parts = (client.owner, client.authorization or "", key)
    return hashlib.sha256("\0".join(parts).encode(errors="surrogateescape")).hexdigest()


def recognisable(request: ChatRequest, key: str | None) -> ChatRequest:
    """Return a request with the digest of its question, if it has a key and has none yet.

    The digest includes ``stream``: whole and streamed answers differ.
    """
    if key is None or request.digest:
        return request
    return attrs.evolve(request, digest=digest_of(request.body(request.model)))


def digest_of(body: bytes) -> str:
    """Return the digest of a body, which is JSON: the same however it was written."""
    return hashlib.sha256(json_text.canonical(body)).hexdigest()
