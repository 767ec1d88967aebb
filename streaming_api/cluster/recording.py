"""Recording: an answer of this process, and the commands by which the store gets it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs

from streaming_api.answers.answer import Answer
from streaming_api.answers.elsewhere import Key
from streaming_api.cluster.connection import Command, is_old, reason_of
from streaming_api.cluster.meta import Meta, ref_of
from streaming_api.cluster.recorder import Append, Ask, Recorder, Step
from streaming_api.cluster.remote_viewer import RemoteViewer
from streaming_api.cluster.store import FORGET_SECONDS, GONE_SECONDS, RUNNING_SECONDS, Store


@attrs.define(eq=False)
class Recording:
    """An answer of this process, and what the store has of it.

    Attributes:
        watchers: other processes that show it, by name.
        slot: the tick of a window in which it is written.
        described: whether it has been said that it runs here.
    """

    key: Key
    answer: Answer
    meta: Meta
    slot: int
    watchers: dict[str, RemoteViewer] = attrs.field(factory=dict)
    described: bool = False
    recorder: Recorder = attrs.field(init=False)

    @property
    def ref(self) -> str:
        """Its name in the store."""
        return ref_of(self.key)

    def commands(self, store: Store, step: Step, kept: int | None) -> list[Command]:
        """Return the commands of a step.

        Args:
            store: names the keys.
            step: what is due.
            kept: seconds for which it is kept after its end; None if it has been deleted.
        """
        commands = [store.step(self.ref, step)]
        if isinstance(step, Ask):
            commands.append(("EXISTS", store.key("m", self.ref)))
        elif isinstance(step, Append):
            if step.create:
                commands += self.describe(store)
            if step.entry.final and kept is not None:
                commands += self.expire(store, kept)
            elif step.entry.final:  # nobody is to be told that it was there
                commands.append(("EXPIRE", store.key("a", self.ref), FORGET_SECONDS))
        return commands

    def took(self, step: Step, replies: Sequence[Any]) -> str | None:
        """Take the replies to a step; return what the store refuses, if anything."""
        recorder = self.recorder
        if (refusal := refusal_in(replies)) is not None:
            recorder.unsure()
            return None if is_old(refusal) else reason_of(refusal)
        reply = replies[0]
        if isinstance(step, Ask):
            number = int(reply[0][0].partition(b"-")[0]) if reply else None
            recorder.found(number)
            if number is not None and not replies[1]:
                recorder.missing()  # the answer is there and its description is not
        elif reply is None:
            recorder.missing()
        else:
            recorder.accepted()
        return None

    def describe(self, store: Store) -> list[Command]:
        """Return the commands that say whose answer it is, and what was asked."""
        self.described = True
        fields = [part for pair in self.meta.encode().items() for part in pair]
        return [("HSET", store.key("m", self.ref), *fields), *self.renew(store)]

    def renew(self, store: Store) -> list[Command]:
        """Return the commands that keep it in the store while it runs."""
        return [("EXPIRE", store.key(kind, self.ref), RUNNING_SECONDS) for kind in ("a", "m")]

    def expire(self, store: Store, kept: int) -> list[Command]:
        """Return commands by which the store forgets an answer, and remembers that for a while."""
        return [
            ("EXPIRE", store.key("a", self.ref), kept),
            ("EXPIRE", store.key("m", self.ref), kept),
            ("SET", store.key("g", self.ref), 1, "EX", kept + GONE_SECONDS),
        ]


def refusal_in(replies: Sequence[Any]) -> Exception | None:
    """Return the first error among replies."""
    return next((reply for reply in replies if isinstance(reply, Exception)), None)
