"""Owner: what other processes ask of this one's answers."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from streaming_api.answers.watched_answer import AnswerOutcome
from streaming_api.cluster.mirror import SERVER_LOST
from streaming_api.cluster.remote_viewer import SILENCE_SECONDS, RemoteViewer

if TYPE_CHECKING:
    from streaming_api.answers.answers import Answers
    from streaming_api.cluster.outbox import Outbox
    from streaming_api.cluster.recording import Recording
    from streaming_api.cluster.writer import Writer

logger = logging.getLogger(__name__)


class Owner:
    """This process in its role as the owner of its answers."""

    def __init__(self, answers: Answers, writer: Writer, outbox: Outbox) -> None:
        self._answers = answers
        self._writer = writer
        self._outbox = outbox

    def asked_for(self, recording: Recording, kind: str, by: str, cursor: str) -> None:
        """Handle a request of another process about an answer of ours."""
        answer = recording.answer
        if kind == "watch" and cursor.isascii() and cursor.isdigit():
            if answer.outcome is None:
                self._watch(recording, by, int(cursor))
            else:
                self._outbox.notify(by, "news", k=recording.ref)
        elif kind in {"unwatch", "move"} and by in recording.watchers:
            if kind == "move":
                answer.move()
            recording.watchers.pop(by).leave()
        elif kind == "cancel":
            answer.cancel()
        elif kind == "forget":
            self._answers.delete(answer)
        elif kind == "rewrite" and recording.recorder.sealed:
            self._outbox.notify(by, "unknown", k=recording.ref)  # what is missing is lost
        elif kind == "rewrite":
            recording.recorder.missing()
            self._writer.hurry(recording)

    def _watch(self, recording: Recording, by: str, cursor: int) -> None:
        viewer = recording.watchers.get(by)
        if viewer is None:
            ref = recording.ref

            def send(payload: bytes) -> None:
                self._outbox.notify(by, "notice", k=ref, p=payload)

            viewer = recording.watchers[by] = RemoteViewer(recording.answer.channel, send)
            recording.answer.returned()
            if not recording.recorder.done:
                self._writer.hurry(recording)
            else:
                self._outbox.notify(by, "news", k=ref)
        viewer.report(cursor)

    def look(self) -> None:
        """Let go of answers that are no longer kept, and of processes that have fallen silent."""
        now = time.monotonic()
        for key, recording in tuple(self._writer.recordings.items()):
            if self._answers.local(key) is not recording.answer:
                del self._writer.recordings[key]
            for by, viewer in tuple(recording.watchers.items()):
                if now - viewer.heard > SILENCE_SECONDS or recording.answer.outcome is not None:
                    del recording.watchers[by]
                    viewer.leave()


def end_sealed(recording: Recording) -> None:
    """End an answer that others have ended because they took this process for dead."""
    logger.warning("an answer was ended by others, who held this process for dead")
    recording.answer.cancel(AnswerOutcome("incomplete", SERVER_LOST))
    for viewer in recording.watchers.values():
        viewer.leave()
    recording.watchers.clear()
