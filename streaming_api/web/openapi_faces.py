"""OpenAPI of the wires of other APIs: Responses. Data only."""

from __future__ import annotations

from typing import Final

from streaming_api.web.openapi_parts import OPENING, Json, json_of, operation, ref, reply

_REFUSED: Final = "The model server's own refusal, with its own status and words."
_EVENTS: Final = {"text/event-stream": {"schema": ref("schemas", "ResponseEvent")}}
_ID: Final = {"X-Request-Id": {"schema": ref("schemas", "RequestId")}}
_RESPONSE: Final = "The response as of now; with stream, its events."

FACES: Final[Json] = {
    "/v1/responses": {
        "post": operation(
            "OpenAI's responses: whole, streamed, or in the background",
            {
                200: reply(_RESPONSE, {**json_of("Response"), **_EVENTS}, _ID),
                "4XX": reply(_REFUSED, json_of("Error")),
                "5XX": reply(_REFUSED, json_of("Error")),
            },
            *(400, 404, 413, 502, *OPENING),
            tag="OpenAI",
            scope="chat",
            parameters=("Idempotency-Key",),
            body="ResponseRequest",
        )
    },
    "/v1/responses/{id}": {
        "get": operation(
            "A response, or its events from any place on",
            {200: reply(_RESPONSE, {**json_of("Response"), **_EVENTS})},
            *(400, 404, 410, *OPENING),
            tag="OpenAI",
            scope="chat",
            parameters=("id", "stream", "starting_after"),
        ),
        "delete": operation(
            "End a response if it runs, and keep it no longer",
            {200: reply("It is gone.", json_of("ResponseDeleted"))},
            404,
            tag="OpenAI",
            scope="chat",
            parameters=("id",),
        ),
    },
    "/v1/responses/{id}/cancel": {
        "post": operation(
            "Cancel a response; harmless if it has ended",
            {200: reply("The response as it ended", json_of("Response"))},
            404,
            tag="OpenAI",
            scope="chat",
            parameters=("id",),
        )
    },
    "/v1/responses/{id}/input_items": {
        "get": operation(
            "The items of the conversation that was answered",
            {200: reply("A page of them", json_of("ResponseItems"))},
            *(400, 404),
            tag="OpenAI",
            scope="chat",
            parameters=("id", "limit", "order", "after_item"),
        )
    },
}
