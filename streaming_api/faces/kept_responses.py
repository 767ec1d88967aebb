"""Responses: the answers that were asked for through the Responses API; started, found, deleted."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final, Protocol, Self

import attrs
import orjson

from streaming_api.errors import ApiError, BadRequest, Gone, NotFound
from streaming_api.faces.derived import Derived
from streaming_api.faces.fields import invalid, optional_text
from streaming_api.faces.response_request import Asked, asked_for, response_fields
from streaming_api.faces.responses import ResponseTranslator
from streaming_api.faces.translator import End
from streaming_api.wire.commands import OnDisconnect, chat_request, new_request_id
from streaming_api.wire.objects import parsed_bytes

if TYPE_CHECKING:
    from streaming_api.access.client import Client
    from streaming_api.answers.answers import Answers
    from streaming_api.answers.watched_answer import WatchedAnswer
    from streaming_api.wire.commands import ChatRequest

FACE: Final = "responses"
_PREFIX: Final = "resp_"
_ITEM_ID: Final = re.compile(r"(?:msg|rs|fc|fco)_(.{1,128})_(?:in)?[0-9]{1,6}", re.ASCII)

Fields = Mapping[str, object]


class Turn(Protocol):
    """What a conversation can be continued from."""

    @property
    def response_id(self) -> str:
        """The id that ``previous_response_id`` names."""

    @property
    def ended(self) -> bool:
        """Whether its output is complete."""

    @property
    def items(self) -> tuple[Fields, ...]:
        """The items of the conversation up to and with this turn."""


_NO_TURNS: Final[Mapping[str, Turn]] = {}


@attrs.frozen
class Prepared:
    """A turn without output (``generate: false``): what later turns begin with.

    Attributes:
        events: those that announce it to the client.
        size: bytes of memory that it takes.
    """

    response_id: str
    items: tuple[Fields, ...]
    events: list[bytes]
    size: int
    ended: bool = True


class ResponseStream(Derived):
    """An answer as a response.

    Attributes:
        asked: what the client asked for.
    """

    translator: ResponseTranslator

    def __init__(self, answer: WatchedAnswer, asked: Asked, created: int | None = None) -> None:
        self.asked = asked = attrs.evolve(asked, chat={})  # which nobody asks for any more
        created = int(time.time()) if created is None else created
        answer.notes[FACE] = lambda: orjson.dumps([attrs.asdict(asked), created])
        fields = response_fields(asked, answer.request_id, created)
        translator = ResponseTranslator(fields, answer.request_id)
        super().__init__(answer, FACE, translator)
        self.count(_size(asked))

    @classmethod
    def of(cls, answer: WatchedAnswer) -> Self | None:
        """Return an answer's response, rebuilt if another process has begun it."""
        known = answer.faces.get(FACE)
        if isinstance(known, cls):
            return known
        note = answer.notes.get(FACE)
        if note is None:
            return None
        fields, created = orjson.loads(note())
        return cls(answer, Asked(**{**fields, "items": tuple(fields["items"])}), created)

    @property
    def response_id(self) -> str:
        """The id of the response object."""
        return f"{_PREFIX}{self.request_id}"

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


def _size(asked: Asked) -> int:
    """Return the bytes of memory that a request takes as long as its response is kept."""
    return parsed_bytes(orjson.dumps([asked.items, asked.fields]))


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
        request_id: str,
        *,
        stream: bool | None = None,
        remembered: Mapping[str, Turn] = _NO_TURNS,
    ) -> tuple[WatchedAnswer, ResponseStream]:
        """Ask for a response.

        Args:
            body: the body of the request.
            client: the client that asks.
            begin: starts an answer (or finds it, if it was asked for before).
            request_id: a new one; the same when the call is repeated (`Elsewhere`).
            stream: whether events are wanted, if the body does not say so.
            remembered: turns that need not be kept for the client to continue from them, by id.

        Raises:
            Elsewhere: another process has to be asked first.
            ApiError: the request fails; the client is sent this error.
        """
        asked = self._asked(body, request_id, client, remembered)
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

    def prepare(
        self, body: dict[str, object], client: Client, remembered: Mapping[str, Turn]
    ) -> Prepared:
        """Return the turn of a request that asks for no output: nobody is asked for any.

        Raises:
            ApiError: the request fails; the client is sent this error.
        """
        request_id = new_request_id()
        asked = self._asked(body, request_id, client, remembered)
        fields = response_fields(asked, request_id, int(time.time()))
        translator = ResponseTranslator(fields, request_id)
        events = [*translator.opening(), *translator.end(End("stop", usage={"total_tokens": 0}))]
        size = _size(asked) + sum(map(len, events))
        return Prepared(f"{_PREFIX}{request_id}", asked.items, events, size)

    def _asked(
        self, body: Fields, request_id: str, client: Client, remembered: Mapping[str, Turn]
    ) -> Asked:
        """Read a request, and find room for what is to be kept of it."""
        asked = asked_for(
            body,
            request_id,
            earlier=self._earlier(body, client, remembered),
            find_item=lambda item_id: self._item(client, item_id),
        )
        self._answers.budget.share(client.name).check(_size(asked))
        return asked

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
        self, body: Fields, client: Client, remembered: Mapping[str, Turn]
    ) -> tuple[Fields, ...]:
        """Return the items of the conversation that a request continues."""
        previous = optional_text(body, "previous_response_id")
        if previous is None:
            return ()
        turn = remembered.get(previous)
        if turn is None:
            try:
                _, turn = self.find(client, previous)
            except NotFound:
                message = f"Previous response with id '{previous[:200]}' not found."
                raise NotFound(
                    message, "previous_response_not_found", param="previous_response_id"
                ) from None
        if not turn.ended:
            message = f"Previous response with id '{previous}' is still in progress."
            raise BadRequest(message, "response_in_progress", param="previous_response_id")
        return turn.items

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
