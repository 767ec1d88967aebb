"""Checks of the Responses API: every object and event against the specification's own models."""

from __future__ import annotations

import enum
import inspect
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import openresponses_types.types as specification
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import BaseModel, TypeAdapter

from streaming_api.faces.translator import END, Translator, delta_of, end_of

Json = dict[str, Any]


def _events() -> dict[str, type[BaseModel]]:
    """The specification's models of events, by the ``type`` that each has."""
    found = {}
    for name, model in inspect.getmembers(specification, inspect.isclass):
        if name.endswith("StreamingEvent") and issubclass(model, BaseModel):
            kinds = model.model_fields["type"].annotation
            assert isinstance(kinds, enum.EnumMeta)
            found.update({str(kind.value): model for kind in kinds.__members__.values()})
    return found


EVENTS: Final = _events()
_OPENAI_EVENT: Final = TypeAdapter[Any](ResponseStreamEvent)


def valid_event(event: Json) -> Json:
    """An event, checked against the specification and the types of the `openai` package."""
    EVENTS[event["type"]].model_validate(event)
    if "response" in event:
        valid_response(event["response"])
    else:
        _OPENAI_EVENT.validate_python(event)
    return event


def valid_response(response: Json) -> Json:
    """A response object, checked likewise.

    The types of `openai` know neither the ends that are ours alone nor a schema left out.
    """
    specification.ResponseResource.model_validate(response)
    document = dict(response)
    for field in ("incomplete_details", "error"):
        document[field] = None
    document["text"] = None
    Response.model_validate(document)
    return response


def types(events: list[Json]) -> list[str]:
    """Their types, without what all have in common."""
    return [str(event["type"]).removeprefix("response.") for event in events]


def heard(face: Translator, data: bytes) -> list[bytes]:
    """What a translator says to one message of an answer."""
    fields = json.loads(data)
    return face.end(end_of(fields)) if fields.get("object") == END else face.read(delta_of(fields))


def text_of(events: Sequence[Mapping[str, Any]]) -> str:
    """The text that the deltas among these events add up to."""
    return "".join(e["delta"] for e in events if e["type"] == "response.output_text.delta")
