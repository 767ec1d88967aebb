"""Responses: the answers that were asked for through the Responses API; started, found, deleted."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final, Self

import attrs
import orjson

from streaming_api.errors import ApiError, BadRequest, Gone, NotFound
from streaming_api.faces.derived import Derived
from streaming_api.faces.fields import invalid, optional_text
from streaming_api.faces.response_request import Asked, asked_for, response_fields
from streaming_api.faces.responses import ResponseTranslator
from streaming_api.wire.commands import OnDisconnect, chat_request, parsed_bytes

if TYPE_CHECKING:
    from streaming_api.access.client import Client
    from streaming_api.answers.answers import Answers
    from streaming_api.answers.watched_answer import WatchedAnswer
    from streaming_api.wire.commands import ChatRequest

FACE: Final = "responses"
_PREFIX: Final = "resp_"
_ITEM_ID: Final = re.compile(r"(?:msg|rs|fc|fco)_(.{1,128})_(?:in)?[0-9]{1,6}", re.ASCII)

Fields = Mapping[str, object]


class ResponseStream(Derived):
    """An answer as a response.

    Attributes:
        asked: what the client asked for.
    """

    translator: ResponseTranslator

    def __init__(self, answer: WatchedAnswer, asked: Asked, created: int | None = None) -> None:
        self.asked = asked
        created = int(time.time()) if created is None else created
        answer.notes[FACE] = orjson.dumps([attrs.asdict(asked), created])
        fields = response_fields(asked, answer.request_id, created)
        translator = ResponseTranslator(fields, answer.request_id)
        super().__init__(answer, FACE, translator)
        self.count(parsed_bytes(orjson.dumps(asked.items)))

    @classmethod
    def of(cls, answer: WatchedAnswer) -> Self | None:
        """Return an answer's response, rebuilt if another process has begun it."""
        known = answer.faces.get(FACE)
        if isinstance(known, cls):
            return known
        note = answer.notes.get(FACE)
        if note is None:
            return None
        fields, created = orjson.loads(note)
        return cls(answer, Asked(**{**fields, "items": tuple(fields["items"])}), created)

    @property
    def response(self) -> dict[str, object]:
        """The response object as it is now."""
        return self.translator.response()

    @property
    def items(self) -> tuple[Fields, ...]:
        """The items of the conversation up to and with this response."""
        output = self.response["output"]
        assert isinstance(output, list)
        return (*self.asked.items, *output)


class Responses:
    """All responses of one server.

    Args:
        answers: the answers that the responses are made of.
    """

    def __init__(self, answers: Answers) -> None:
        self._answers = answers

    def start(
        self,
        body: dict[str, object],
        client: Client,
        begin: Callable[[ChatRequest, Client], WatchedAnswer],
        *,
        stream: bool | None = None,
        remembered: ResponseStream | None = None,
    ) -> tuple[WatchedAnswer, ResponseStream]:
        """Ask for a response.

        Args:
            body: the body of the request.
            client: the client that asks.
            begin: starts an answer (or finds it, if it was asked for before).
            stream: whether events are wanted, if the body does not say so.
            remembered: a response that is not kept, but that the client may continue from.

        Raises:
            ApiError: the request fails; the client is sent this error.
        """
        request_id = uuid.uuid4().hex
        asked = asked_for(
            body,
            request_id,
            earlier=self._earlier(body, client, remembered),
            find_item=lambda item_id: self._item(client, item_id),
        )
        fields: dict[str, object] = {**asked.chat, "request_id": request_id, "stream": True}
        if "on_disconnect" in body:
            fields["on_disconnect"] = body["on_disconnect"]
        streamed = asked.stream if stream is None else stream
        default = OnDisconnect.GRACE if streamed else OnDisconnect.CANCEL
        request = chat_request(
            fields,
            orjson.dumps(asked.chat),
            on_disconnect=OnDisconnect.FINISH if asked.background else default,
        )
        answer = begin(attrs.evolve(request, chosen=False), client)
        known = ResponseStream.of(answer)
        if known is not None:
            return answer, known
        response = ResponseStream(answer, asked)
        if not asked.store:
            response.on_ended.append(lambda: self._answers.forget(answer))
        return answer, response

    def find(self, client: Client, response_id: str) -> tuple[WatchedAnswer, ResponseStream]:
        """Return a response of this client.

        Raises:
            NotFound: there is no such response, or it is no longer kept.
        """
        try:
            answer = self._answers.find(client.owner, response_id.removeprefix(_PREFIX))
        except (NotFound, Gone):
            raise _unknown(response_id) from None
        response = ResponseStream.of(answer)
        if response is None or not response_id.startswith(_PREFIX):
            raise _unknown(response_id)
        return answer, response

    def _earlier(
        self, body: Fields, client: Client, remembered: ResponseStream | None
    ) -> tuple[Fields, ...]:
        """Return the items of the conversation that a request continues."""
        previous = optional_text(body, "previous_response_id")
        if previous is None:
            return ()
        if remembered is not None and previous == f"{_PREFIX}{remembered.request_id}":
            response = remembered
        else:
            try:
                _, response = self.find(client, previous)
            except NotFound:
                message = f"Previous response with id '{previous}' not found."
                raise NotFound(
                    message, "previous_response_not_found", param="previous_response_id"
                ) from None
        if not response.ended:
            message = f"Previous response with id '{previous}' is still in progress."
            raise BadRequest(message, "response_in_progress", param="previous_response_id")
        return response.items

    def _item(self, client: Client, item_id: str) -> Fields:
        """Return an item from the output or the input of an earlier response."""
        found = _ITEM_ID.fullmatch(item_id)
        if found is not None:
            try:
                _, response = self.find(client, _PREFIX + found[1])
            except ApiError:
                pass
            else:
                for item in response.items:
                    if item["id"] == item_id:
                        return item
        message = f"Item with id '{item_id}' not found."
        raise NotFound(message, "item_not_found", param="input")


def _unknown(response_id: str) -> NotFound:
    message = f"Response with id '{response_id[:200]}' not found."
    return NotFound(message, "response_not_found")


def starting_after(given: str | None) -> int:
    """Return the number of the last event that a client has; 0 for none.

    Args:
        given: the ``sequence_number`` of that event, if the client has one.

    Raises:
        BadRequest: it is not such a number.
    """
    if given is None:
        return 0
    if not given.isascii() or not given.isdigit() or len(given) > 18:
        raise invalid("starting_after", "the sequence_number of the last event: a whole number")
    return int(given) + 1
