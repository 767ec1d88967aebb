"""Chats of the AI SDK's ``useChat``: which answer a chat waits for."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Final

from streaming_api.faces.derived import Derived
from streaming_api.faces.ui_messages import UiMessageTranslator

if TYPE_CHECKING:
    from streaming_api.access.client import Client
    from streaming_api.answers.watched_answer import WatchedAnswer

FACE: Final = "ui-messages"


class UiChats:
    """The newest answer of each chat while it runs or is kept, by owner and chat id.

    Its stream is referred to, and not the answer: compiled (`setup.py`), an answer that is freed
    does not clear what refers to it weakly.
    """

    def __init__(self) -> None:
        self._newest: weakref.WeakValueDictionary[tuple[str, str], Derived] = (
            weakref.WeakValueDictionary()
        )

    def put(self, client: Client, chat_id: str, shown: Derived) -> None:
        """Note the stream of the newest answer of a chat."""
        self._newest[client.owner, chat_id] = shown

    def get(self, client: Client, chat_id: str) -> str | None:
        """Return the request_id of the newest answer of a chat, or None."""
        shown = self._newest.get((client.owner, chat_id))
        return None if shown is None else shown.request_id


def stream_of(answer: WatchedAnswer, message_id: str | None = None) -> Derived:
    """Return an answer as a UI message stream.

    Args:
        answer: is translated on the first request for its stream.
        message_id: the id of the message that it continues; None for one of its own.
    """
    found = answer.faces.get(FACE)
    if isinstance(found, Derived):
        return found
    note = answer.notes.get(FACE)
    named = note().decode() if note is not None else message_id or answer.request_id
    answer.notes[FACE] = named.encode
    return Derived(answer, FACE, UiMessageTranslator(named))
