"""CommandHandler: what a WebSocket client's commands do. One look-up from command to function."""

from __future__ import annotations

from typing import TYPE_CHECKING

from streaming_api.errors import BadRequest
from streaming_api.wire.commands import Cancel, ChatRequest, Command, Resume, Subscribe, Unsubscribe
from streaming_api.wire.messages import notice

if TYPE_CHECKING:
    from streaming_api.answers.answers import Answers
    from streaming_api.engine.channel import Channel
    from streaming_api.engine.sink import Watcher
    from streaming_api.ops.context import Context
    from streaming_api.web.websocket import WebSocket


class CommandHandler:
    """Runs the commands of the connections of one path.

    Args:
        chat_only: whether the path is for answers and for nothing else.
    """

    def __init__(self, context: Context, *, chat_only: bool) -> None:
        self._context = context
        self._chat_only = chat_only

    def run(self, socket: WebSocket, command: Command) -> None:
        """Do what the command says.

        Raises:
            ApiError: what the client is told.
        """
        match command:
            case ChatRequest():
                self._start(socket, command)
            case Cancel():
                self._chat(socket).find(socket.client.owner, command.request_id).cancel()
            case Resume():
                self._resume(socket, command)
            case Subscribe():
                self._subscribe(socket, command)
            case Unsubscribe():
                self._unsubscribe(socket, command)

    # Answers

    def _chat(self, socket: WebSocket) -> Answers:
        chat = self._context.answers
        chat.require()
        socket.client.require("chat")
        return chat

    def _start(self, socket: WebSocket, request: ChatRequest) -> None:
        answer = self._chat(socket).start(request, socket.client)
        if _viewer_of(socket, answer.channel) is None:
            answer.watch(socket, 0)

    def _resume(self, socket: WebSocket, command: Resume) -> None:
        answer = self._chat(socket).find(socket.client.owner, command.request_id)
        before = _viewer_of(socket, answer.channel)
        answer.watch(socket, command.after)
        if before is not None:
            before.leave()

    # Topics

    def _subscribe(self, socket: WebSocket, command: Subscribe) -> None:
        if self._chat_only:
            message = "This path is for answers; subscribe on /streaming/websocket."
            raise BadRequest(message, "chat_only", param="message_type")
        socket.client.require("watch")
        topics = self._context.topics
        topics.require(command.topic)
        told = {"event": "subscribed", "topic": command.topic}
        socket.send(notice(command.message_type, told, stream=command.topic), command.message_type)
        self._leave_topic(socket, command.topic)
        topics.watch(socket, (command.topic,), command.cursor)

    def _unsubscribe(self, socket: WebSocket, command: Unsubscribe) -> None:
        self._leave_topic(socket, command.topic)
        told = {"event": "unsubscribed", "topic": command.topic}
        socket.send(notice(command.message_type, told, stream=command.topic), command.message_type)

    def _leave_topic(self, socket: WebSocket, topic: str) -> None:
        for viewer in tuple(socket.viewers):
            if topic in self._context.topics.watched(viewer):
                viewer.leave()


def _viewer_of(socket: WebSocket, channel: Channel) -> Watcher | None:
    return next((viewer for viewer in socket.viewers if viewer.channel is channel), None)
