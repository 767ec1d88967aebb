"""CommandHandler: what a WebSocket client's commands do. One look-up from command to function."""

from __future__ import annotations

from typing import TYPE_CHECKING

from streaming_api.errors import BadRequest
from streaming_api.wire.commands import Cancel, ChatRequest, Command, Resume, Subscribe, Unsubscribe
from streaming_api.wire.messages import notice

if TYPE_CHECKING:
    from streaming_api.answers.answers import Answers
    from streaming_api.connections.connection import Connection
    from streaming_api.engine.channel import Channel
    from streaming_api.engine.sink import Watcher
    from streaming_api.ops.context import Context


class CommandHandler:
    """Runs the commands of the connections of one path.

    Args:
        chat_only: whether the path serves answers and nothing else.
    """

    def __init__(self, context: Context, *, chat_only: bool) -> None:
        self._context = context
        self._chat_only = chat_only

    def run(self, connection: Connection, command: Command) -> None:
        """Carry out a command.

        Raises:
            ApiError: the command fails; the client is sent this error.
        """
        match command:
            case ChatRequest():
                self._start(connection, command)
            case Cancel():
                self._cancel(connection, command)
            case Resume():
                self._resume(connection, command)
            case Subscribe():
                self._subscribe(connection, command)
            case Unsubscribe():
                self._unsubscribe(connection, command)

    # Answers

    def _chat(self, connection: Connection) -> Answers:
        chat = self._context.answers
        chat.require()
        connection.client.require("chat")
        return chat

    def _start(self, connection: Connection, request: ChatRequest) -> None:
        answer = self._chat(connection).start(request, connection.client)
        if _viewer_of(connection, answer.channel) is None:
            answer.watch(connection, 0)

    def _cancel(self, connection: Connection, command: Cancel) -> None:
        answers, client = self._chat(connection), connection.client
        answers.cancel(answers.find(client.owner, command.request_id), client)

    def _resume(self, connection: Connection, command: Resume) -> None:
        answer = self._chat(connection).find(connection.client.owner, command.request_id)
        before = _viewer_of(connection, answer.channel)
        answer.watch(connection, command.after)
        if before is not None:
            before.leave()

    # Topics

    def _subscribe(self, connection: Connection, command: Subscribe) -> None:
        if self._chat_only:
            message = "This path is for answers; subscribe on /streaming/websocket."
            raise BadRequest(message, "chat_only", param="message_type")
        connection.client.require("watch")
        topics = self._context.topics
        topics.require(command.topic)
        event = {"event": "subscribed", "topic": command.topic}
        connection.send(
            notice(command.message_type, event, stream=command.topic), command.message_type
        )
        self._leave_topic(connection, command.topic)
        topics.watch(connection, (command.topic,), command.cursor)

    def _unsubscribe(self, connection: Connection, command: Unsubscribe) -> None:
        self._leave_topic(connection, command.topic)
        event = {"event": "unsubscribed", "topic": command.topic}
        connection.send(
            notice(command.message_type, event, stream=command.topic), command.message_type
        )

    def _leave_topic(self, connection: Connection, topic: str) -> None:
        for viewer in tuple(connection.viewers):
            if topic in self._context.topics.watched(viewer):
                viewer.leave()


def _notify(connection: Connection, command: Subscribe | Unsubscribe, event: str) -> None:
    data = {"event": event, "topic": command.topic}
    reply = notice(command.message_type, data, stream=command.topic)
    connection.send(reply, command.message_type)


def _viewer_of(connection: Connection, channel: Channel) -> Watcher | None:
    return next((viewer for viewer in connection.viewers if viewer.channel is channel), None)
