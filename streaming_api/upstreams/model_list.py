"""The list of models: read out of whatever upstreams send, and asked for once for all who ask."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable
from typing import Final

import orjson

from streaming_api.upstreams import repair
from streaming_api.upstreams.answer import invalid
from streaming_api.upstreams.reply_errors import UpstreamError, UpstreamFault, error_of_object

LIST_KEPT: Final = 2.0
"""Seconds for which a list serves everybody with the same credential."""
FAULT_KEPT: Final = 0.5
"""Seconds for which a fault serves likewise."""
MAX_KEPT: Final = 16
"""Lists and faults that are kept, each for a credential of its own."""
AT_ONCE: Final = 8
"""Questions under way with credentials that clients brought; the others wait."""
MAX_WAITING: Final = 100
"""Questions with credentials of their own that wait or are under way; more are refused."""

Models = list[dict[str, object]]
_BUSY: Final = UpstreamFault(
    status=503,
    type="overloaded_error",
    code="too_many_questions",
    message="Too many ask for their list of models at once; try again.",
    retry_after=1,
)


class ModelsReader:
    """Reads a list of models: OpenAI's, a bare one, or Ollama's and Google's `{"models": ...}`."""

    def __init__(self) -> None:
        self.over = False
        self.error: UpstreamFault | None = None
        self.repaired = 0
        self.models: Models = []

    def read(self, data: bytes) -> list[bytes]:  # noqa: ARG002 (whatever it is)
        """Ignore events: a list of models is not streamed."""
        self.fail(invalid("an event stream where a list of models was asked for"))
        return []

    def read_end(self, *, delimited: bool) -> list[bytes]:  # noqa: ARG002 (as above)
        """Ignore the end of events, too."""
        return self.read(b"")

    def read_whole(self, body: bytes) -> list[bytes]:
        """Take the body; nothing of it is passed on."""
        try:
            reply, _ = repair.loads(body)
        except orjson.JSONDecodeError as exc:
            self.fail(invalid(f"a list of models that is not JSON ({exc})"))
            return []
        try:
            self.models = _models(reply)
            self.over = True
        except LookupError:
            self.fail(error_of_object(reply) or invalid("no list of models"))
        return []

    def fail(self, error: UpstreamFault) -> None:
        """Note that there is no list, and why."""
        self.error = error
        self.over = True


def _models(reply: object) -> Models:
    """Return the models of a reply, each with an ``id``; null is Go's empty list.

    Raises:
        LookupError: it holds no list, or a list in which nothing is a model.
    """
    listed = reply
    if isinstance(reply, dict):
        if reply.get("error"):
            raise LookupError
        listed = reply["data"] if "data" in reply else reply["models"]
    if listed is None:
        return []
    models = [model for item in _items(listed) if (model := _model(item)) is not None]
    if listed != [] and not models:
        raise LookupError
    return models


def _items(listed: object) -> list[object]:
    return listed if isinstance(listed, list) else [None]


def _model(item: object) -> dict[str, object] | None:
    if isinstance(item, str):
        item = {"id": item, "object": "model"}
    if not isinstance(item, dict):
        return None
    if not isinstance(item.get("id"), str):
        name = item.get("name") or item.get("model")
        return {**item, "id": name, "object": "model"} if isinstance(name, str) else None
    return item


class ModelList:
    """One question to the upstream serves all who ask meanwhile, and shortly after.

    Each credential that goes upstream has a list of its own, for it may see other models.

    Args:
        ask: asks the upstream, with a client's credential or (None) the configured one.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        ask: Callable[[str | None], Awaitable[Models]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ask = ask
        self._clock = clock
        self._kept: dict[bytes, tuple[float, Models | UpstreamFault]] = {}  # until when, and what
        self._questions: dict[bytes, asyncio.Task[Models | UpstreamFault]] = {}
        self._turn = asyncio.Semaphore(AT_ONCE)

    async def get(self, credential: str | None) -> Models:
        """Return the list, as this credential sees it.

        A caller that is cancelled takes nothing from the others: the question goes on.

        Raises:
            UpstreamError: the list could not be had.
        """
        key = hashlib.sha256((credential or "").encode("utf-8", "surrogateescape")).digest()
        until, found = self._kept.get(key, (0.0, None))
        if found is None or self._clock() >= until:
            found = await asyncio.shield(self._question(key, credential))
        if isinstance(found, UpstreamFault):
            raise UpstreamError(found)
        return found

    def forget(self) -> None:
        """Forget all lists: the upstream may have changed."""
        self._kept.clear()

    async def close(self) -> None:
        """Cancel the questions that are under way."""
        questions = tuple(self._questions.values())
        for question in questions:
            question.cancel()
        await asyncio.gather(*questions, return_exceptions=True)

    def _question(self, key: bytes, credential: str | None) -> asyncio.Task[Models | UpstreamFault]:
        question = self._questions.get(key)
        if question is None:
            if credential is not None and len(self._questions) >= MAX_WAITING:
                raise UpstreamError(_BUSY)
            question = asyncio.create_task(self._answer(key, credential), name="list of models")
            self._questions[key] = question
            question.add_done_callback(lambda _: self._questions.pop(key, None))
        return question

    async def _answer(self, key: bytes, credential: str | None) -> Models | UpstreamFault:
        found: Models | UpstreamFault
        try:
            if credential is None:
                found = await self._ask(None)
            else:
                async with self._turn:
                    found = await self._ask(credential)
        except UpstreamError as failed:
            found = failed.error
        now = self._clock()
        self._kept = {k: kept for k, kept in self._kept.items() if kept[0] > now and k != key}
        if len(self._kept) >= MAX_KEPT:
            del self._kept[next(iter(self._kept))]
        kept = FAULT_KEPT if isinstance(found, UpstreamFault) else LIST_KEPT
        self._kept[key] = (now + kept, found)
        return found
