"""The contract for machines: that it is valid, complete, and true of the running application."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

import aiohttp
import jsonschema
import orjson
import pytest
from aiohttp import web
from openapi_spec_validator import OpenAPIV31SpecValidator

from streaming_api import __version__
from streaming_api.app import make_app
from streaming_api.config import StreamingConfig
from streaming_api.errors import ApiError
from streaming_api.service import StreamingService
from streaming_api.sources.alertmanager import WebhookError, parse_webhook
from streaming_api.web import contract, guard
from streaming_api.wire.commands import chat_request, parse_command
from streaming_api.wire.messages import MESSAGE_TYPES, Encoder, notice
from tests.clients import Message, websocket
from tests.conftest import StartServer

Json = dict[str, Any]

MESSAGE: Final[Json] = dict(contract.message_schema())
OPENAPI: Final[Json] = dict(contract.openapi_document())
ASYNCAPI: Final[Json] = dict(contract.asyncapi_document())

SAID: Final = {"message_type": "alert", "timestamp": "2026-01-31T12:00:00.000Z", "data": {}}
ASKED: Final = {"model": "ten-tokens", "messages": [{"role": "user", "content": "Hello"}]}
ALERT: Final = {
    "status": "firing",
    "labels": {"alertname": "A"},
    "annotations": {},
    "startsAt": "2026-01-31T12:00:00Z",
}


def faults(document: Json, schema: Json, value: object) -> list[str]:
    """What is wrong with a value, by a schema of one of the documents."""
    whole = {**schema, "components": document["components"]}
    validator = jsonschema.Draft202012Validator(
        whole, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
    )
    return [error.message for error in validator.iter_errors(value)]


def faults_of(name: str, value: object, document: Json = ASYNCAPI) -> list[str]:
    """What is wrong with a value, by the component of this name."""
    return faults(document, {"$ref": f"#/components/schemas/{name}"}, value)


def operations() -> Iterator[tuple[str, str, Json]]:
    """Method, path and description of every operation in OpenAPI."""
    for path, item in OPENAPI["paths"].items():
        for method, operation in item.items():
            yield method.upper(), path, operation


def routes() -> Iterator[tuple[str, str, web.AbstractRoute]]:
    """Method, path and route of everything that the application answers, HEAD aside."""
    for route in make_app(StreamingConfig()).router.routes():
        resource = route.resource
        assert resource is not None
        path = re.sub(r"/sse/(metrics|alerts|status|history)$", "/sse/{topic}", resource.canonical)
        if route.method != "HEAD":
            yield route.method, path, route


def references(value: object) -> Iterator[str]:
    """Every ``$ref`` in a document."""
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for part in value.values():
            yield from references(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from references(part)


def resolve(document: Json, reference: str) -> Any:  # noqa: ANN401 - JSON
    """What a reference within a document points at."""
    found: Any = document
    for part in reference.removeprefix("#/").split("/"):
        found = found[part.replace("~1", "/").replace("~0", "~")]
    return found


# The documents themselves


def test_the_message_schema_is_a_json_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(MESSAGE)


def test_the_openapi_document_is_valid() -> None:
    assert [error.message for error in OpenAPIV31SpecValidator(OPENAPI).iter_errors()] == []


@pytest.mark.parametrize("name", ASYNCAPI["components"]["schemas"])
def test_a_component_is_a_schema_in_the_dialects_of_openapi_and_asyncapi(name: str) -> None:
    schema = ASYNCAPI["components"]["schemas"][name]

    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft7Validator.check_schema(schema)


@pytest.mark.parametrize("name", ASYNCAPI["components"]["schemas"])
def test_every_example_fits_its_schema(name: str) -> None:
    for example in ASYNCAPI["components"]["schemas"][name].get("examples", ()):
        assert faults_of(name, example) == []


@pytest.mark.parametrize("document", [OPENAPI, ASYNCAPI], ids=["openapi", "asyncapi"])
def test_every_reference_leads_somewhere_and_every_component_is_used(document: Json) -> None:
    used = set(references(document))

    for reference in used:
        assert resolve(document, reference)
    if document is OPENAPI:
        kinds = ("parameters", "responses")
        defined = {f"#/components/{k}/{n}" for k in kinds for n in document["components"][k]}
        assert defined <= used


def test_every_shared_schema_is_used_by_one_of_the_documents() -> None:
    used = set(references(OPENAPI)) | set(references(ASYNCAPI))
    shared = {f"#/components/schemas/{name}" for name in ASYNCAPI["components"]["schemas"]}

    assert shared <= used


def test_the_documents_carry_the_version_of_the_server() -> None:
    assert [__version__] * 2 == [OPENAPI["info"]["version"], ASYNCAPI["info"]["version"]]


# Messages


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"sequence_id": 1},
        {"sequence_id": 0},
        {"sequence_id": -1},
        {"data": {"anything": [1, None]}},
        {"anything": "else"},
        *({"message_type": name} for name in MESSAGE_TYPES),
    ],
)
def test_a_message_that_the_contract_allows_is_valid(change: Json) -> None:
    assert faults(OPENAPI, MESSAGE, SAID | change) == []


@pytest.mark.parametrize(
    "change",
    [
        {"message_type": "ping"},
        {"message_type": None},
        {"timestamp": "now"},
        {"timestamp": 1},
        {"data": []},
        {"data": None},
        {"sequence_id": "1"},
        {"sequence_id": 1.5},
        {"sequence_id": None},
    ],
)
def test_a_message_that_the_contract_forbids_is_not_valid(change: Json) -> None:
    assert faults(OPENAPI, MESSAGE, SAID | change)


@pytest.mark.parametrize("name", ["message_type", "timestamp", "data"])
def test_a_message_needs_what_the_contract_requires(name: str) -> None:
    assert faults(OPENAPI, MESSAGE, {key: value for key, value in SAID.items() if key != name})


@pytest.mark.parametrize("message_type", MESSAGE_TYPES)
def test_what_the_encoder_writes_is_valid(message_type: str) -> None:
    encoder = Encoder(message_type, "chat/r-1", "r-1", "r-1")
    payload = encoder.encode(1, b'{"choices":[]}', 0.0).payload

    assert faults_of("StreamMessage", json.loads(payload)) == []


# Commands: what the schemas say is what the parsers do


@pytest.mark.parametrize(
    "fields",
    [
        ASKED,
        ASKED | {"model_id": "m", "stream": False, "temperature": 0.5, "anything": None},
        ASKED | {"model": None, "model_id": None},
        ASKED | {"request_id": "A-Za-z0-9_.", "on_disconnect": "finish"},
        ASKED | {"request_id": None, "on_disconnect": None, "stream": None},
        {"messages": [{}]},
    ],
)
def test_a_chat_request_that_is_taken_fits_the_schema(fields: Json) -> None:
    chat_request(fields, orjson.dumps(fields))

    assert faults_of("ChatRequest", fields) == []


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"messages": None},
        {"messages": []},
        {"messages": ["Hello"]},
        {"messages": {"role": "user"}},
        ASKED | {"model": 5},
        ASKED | {"model_id": ""},
        ASKED | {"stream": 1},
        ASKED | {"request_id": ""},
        ASKED | {"request_id": "a b"},
        ASKED | {"request_id": "r" * 129},
        ASKED | {"on_disconnect": "never"},
    ],
)
def test_a_chat_request_that_is_refused_does_not_fit_the_schema(fields: Json) -> None:
    with pytest.raises(ApiError):
        chat_request(fields, orjson.dumps(fields))

    assert faults_of("ChatRequest", fields)


COMMANDS: Final = tuple(name for name in ASYNCAPI["components"]["schemas"] if "Command" in name)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_commands_that_asyncapi_shows_are_taken(name: str) -> None:
    examples = ASYNCAPI["components"]["schemas"][name]["examples"]

    assert examples
    for example in examples:
        parse_command(example, orjson.dumps(example))
        assert [name] == [other for other in COMMANDS if not faults_of(other, example)]


@pytest.mark.parametrize(
    "fields",
    [
        {"message_type": "ping"},
        {"message_type": "chat_completion", "action": "subscribe", **ASKED},
        {"message_type": "chat_completion", "action": "cancel"},
        {"message_type": "chat_completion", "action": "resume", "request_id": "r", "after": -1},
        {"message_type": "chat_completion", "action": "resume", "request_id": "r", "after": "1"},
        {"message_type": "alert", "action": "cancel", "request_id": "r"},
        {"message_type": "alert", "cursor": 7},
        {"action": "subscribe"},
    ],
)
def test_a_command_that_is_refused_fits_no_schema(fields: Json) -> None:
    with pytest.raises(ApiError):
        parse_command(fields, orjson.dumps(fields))

    assert [name for name in COMMANDS if not faults_of(name, fields)] == []


@pytest.mark.parametrize(
    "alert",
    [
        ALERT,
        ALERT | {"endsAt": "0001-01-01T00:00:00Z", "generatorURL": "", "fingerprint": "0"},
        ALERT | {"status": "resolved", "endsAt": "2026-01-31T12:00:00+01:00"},
        ALERT | {"labels": {"alertname": 1}},
        ALERT | {"annotations": None},
        ALERT | {"status": "resolved"},
        ALERT | {"status": "over"},
        ALERT | {"startsAt": "today"},
        ALERT | {"fingerprint": 7},
    ],
)
def test_a_webhook_fits_the_schema_if_and_only_if_it_is_taken(alert: Json) -> None:
    webhook = {"version": "4", "alerts": [alert]}
    try:
        parse_webhook(json.dumps(webhook).encode())
    except WebhookError:
        taken = False
    else:
        taken = True

    assert taken == (not faults_of("AlertmanagerWebhook", webhook))


# The routes


def test_every_route_is_described_and_everything_described_is_a_route() -> None:
    described = {(method, path) for method, path, _ in operations()}

    assert {(method, path) for method, path, _ in routes()} == described


def test_the_scopes_in_the_description_are_those_that_the_guard_asks_for() -> None:
    asked = {
        (method, path): getattr(route.handler, guard._SCOPE, None)
        for method, path, route in routes()
    }

    for method, path, operation in operations():
        scope = asked[method, path]
        ways = operation.get("security", [])
        expected = [] if scope in {None, guard.ANY} else [scope]
        assert ways == ([{"key": expected}, {"ticket": expected}, {}] if scope else [])
        assert ("401" in operation["responses"]) == bool(scope)


def test_every_parameter_in_a_path_is_described() -> None:
    for method, path, operation in operations():
        parameters = [resolve(OPENAPI, p["$ref"]) for p in operation.get("parameters", ())]
        described = {p["name"] for p in parameters if p["in"] == "path"}

        assert set(re.findall(r"{(\w+)}", path)) == described, (method, path)


def test_the_addresses_in_asyncapi_are_the_paths_that_switch_protocols() -> None:
    switching = {path for _, path, operation in operations() if "101" in operation["responses"]}

    assert {channel["address"] for channel in ASYNCAPI["channels"].values()} == switching


def test_each_message_of_a_channel_has_a_direction() -> None:
    for name, channel in ASYNCAPI["channels"].items():
        here = {"$ref": f"#/channels/{name}"}
        moved = [
            message["$ref"].rpartition("/")[2]
            for operation in ASYNCAPI["operations"].values()
            if operation["channel"] == here
            for message in operation["messages"]
        ]

        assert sorted(channel["messages"]) == sorted(moved)


# The running application


async def ask(
    service: StreamingService,
    method: str,
    path: str,
    described: str | None = None,
    **options: Any,  # noqa: ANN401 - as aiohttp takes them
) -> tuple[int, bytes, Mapping[str, str]]:
    """Send a request; its reply is checked against what the document says of `described`."""
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, service.url + path, **options) as response,
    ):
        body = await response.read()
        check_reply(method, described or path, response, body)
        return response.status, body, response.headers


def check_reply(method: str, path: str, response: aiohttp.ClientResponse, body: bytes) -> None:
    """Hold a reply against the document: its status, headers, content type and body."""
    operation = OPENAPI["paths"][path][method.lower()]
    responses = operation["responses"]
    reply = responses.get(str(response.status)) or responses[f"{response.status // 100}XX"]
    reply = resolve(OPENAPI, reply["$ref"]) if "$ref" in reply else reply
    for name, header in reply.get("headers", {}).items():
        assert name in response.headers or not header.get("required"), name
    content = reply.get("content")
    if not content:
        assert body == b""
        return
    media = content.get("*/*", content.get(response.content_type))
    assert media is not None, f"{response.status} is of type {response.content_type}"
    if response.content_type == "application/json" and "schema" in media:
        assert faults(OPENAPI, media["schema"], json.loads(body)) == []


@pytest.mark.parametrize(
    "path",
    [
        "/", "/health", "/metrics", "/v1/models", "/streaming/status", "/streaming/metrics",
        "/streaming/connections", "/streaming/history", "/streaming/history?since=1",
        "/streaming/snapshot", "/streaming/schema", "/streaming/openapi.json",
        "/streaming/asyncapi.json",
    ],
)  # fmt: skip
async def test_a_reply_is_as_described(server: StreamingService, path: str) -> None:
    async with websocket(server.url) as socket:
        await socket.send(message_type="status_update")
        await socket.receive()

        status, _, _ = await ask(server, "GET", path, path.partition("?")[0])

    assert status == 200


REQUESTS: Final = [
    (201, "POST", "/streaming/tickets", None, {}),
    (200, "POST", "/streaming/alerts", None, {"json": {"version": "4", "alerts": [ALERT]}}),
    (400, "POST", "/streaming/alerts", None, {"data": b"["}),
    (413, "POST", "/streaming/alerts", None, {"data": io.BytesIO(bytes(2**25 + 1))}),
    (200, "POST", "/v1/chat/completions", None, {"json": ASKED}),
    (200, "POST", "/v1/chat/completions", None, {"json": ASKED | {"stream": True}}),
    (400, "POST", "/v1/chat/completions", None, {"json": {}}),
    (415, "POST", "/v1/chat/completions", None, {"headers": {"Content-Encoding": "compress"}}),
    (502, "POST", "/v1/chat/completions", None, {"json": ASKED | {"model": "html-502"}}),
    (429, "POST", "/v1/chat/completions", None, {"json": ASKED | {"model": "rate-limited"}}),
    (200, "POST", "/streaming/sse/chat", None, {"json": ASKED}),
    (400, "POST", "/streaming/sse/chat", None, {"json": []}),
    (404, "GET", "/streaming/sse/chat/none", "/streaming/sse/chat/{request_id}", {}),
    (404, "DELETE", "/streaming/chat/none", "/streaming/chat/{request_id}", {}),
    (400, "DELETE", "/streaming/chat/%20", "/streaming/chat/{request_id}", {}),
    (400, "GET", "/streaming/history?since=yesterday", None, {}),
    (400, "GET", "/streaming/sse?topics=metrics,history", "/streaming/sse", {}),
    (404, "GET", "/streaming/sse?topics=weather", "/streaming/sse", {}),
    (426, "GET", "/streaming/websocket", None, {}),
    (426, "GET", "/streaming/websocket/chat", None, {}),
    (403, "GET", "/health", None, {"headers": {"Host": "foreign.example"}}),
    (403, "GET", "/streaming/status", None, {"headers": {"Origin": "http://foreign.example"}}),
    (200, "GET", "/static/page.css", "/static/{file}", {}),
    (404, "GET", "/static/none.css", "/static/{file}", {}),
    (416, "GET", "/static/page.css", "/static/{file}", {"headers": {"Range": "bytes=9999999-"}}),
    (412, "GET", "/static/page.css", "/static/{file}", {"headers": {"If-Match": '"x"'}}),
]


@pytest.mark.parametrize(("expected", "method", "path", "described", "options"), REQUESTS)
async def test_a_reply_to_a_good_or_bad_request_is_as_described(
    server: StreamingService,
    expected: int,
    method: str,
    path: str,
    described: str | None,
    options: Json,
) -> None:
    described = described or path.partition("?")[0]

    status, _, _ = await ask(server, method, path, described, **options)

    assert expected == status


async def test_an_answer_that_was_seen_and_cancelled_is_as_described(
    server: StreamingService,
) -> None:
    asked = ASKED | {"request_id": "r-1"}
    watch = "/streaming/sse/chat/{request_id}"

    await ask(server, "POST", "/streaming/sse/chat", json=asked)
    seen, _, _ = await ask(server, "GET", "/streaming/sse/chat/r-1", watch)
    refused, _, _ = await ask(server, "GET", "/streaming/sse/chat/r-1?after=x", watch)
    cancelled, _, _ = await ask(
        server, "DELETE", "/streaming/chat/r-1", "/streaming/chat/{request_id}"
    )

    assert (seen, refused, cancelled) == (200, 400, 204)


@pytest.mark.parametrize("path", ["/streaming/sse/metrics", "/streaming/websocket"])
async def test_a_server_that_is_full_answers_as_described(
    start_server: StartServer, path: str
) -> None:
    service = await start_server(max_connections=1, sse_max_connections=1)
    for kind in ("websocket", "sse"):
        service.connection_manager.admission.admit(kind, "127.0.0.1")
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
               "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA=="}  # fmt: skip
    headers = upgrade if "websocket" in path else {}
    described = path.replace("/metrics", "/{topic}")

    status, _, received = await ask(service, "GET", path, described, headers=headers)

    assert status == 503
    assert int(received["Retry-After"]) >= 1


async def test_a_feature_that_is_switched_off_answers_as_described(
    start_server: StartServer,
) -> None:
    service = await start_server(
        streaming_chat_enabled=False,
        streaming_alerts_enabled=False,
        sse_enabled=False,
        websocket_enabled=False,
    )

    for method, path in [
        ("GET", "/streaming/websocket"),
        ("GET", "/streaming/sse"),
        ("GET", "/v1/models"),
        ("POST", "/v1/chat/completions"),
        ("POST", "/streaming/sse/chat"),
        ("POST", "/streaming/alerts"),
    ]:
        status, _, _ = await ask(service, method, path)
        assert (method, path, 404) == (method, path, status)


@pytest.mark.parametrize(
    "path", ["/streaming/schema", "/streaming/openapi.json", "/streaming/asyncapi.json"]
)
async def test_a_client_that_has_the_document_is_not_sent_it_again(
    server: StreamingService, path: str
) -> None:
    _, whole, headers = await ask(server, "GET", path)
    etag = headers["ETag"]

    code, nothing, _ = await ask(server, "GET", path, headers={"If-None-Match": f'"x", {etag}'})
    other, again, _ = await ask(server, "GET", path, headers={"If-None-Match": '"x"'})

    assert (code, nothing) == (304, b"")
    assert (200, whole) == (other, again)
    assert headers["Cache-Control"] == "no-cache"


async def test_the_contract_is_open_to_everybody(start_server: StartServer) -> None:
    service = await start_server(
        api_keys=({"name": "k", "sha256": "0" * 64, "scopes": ("watch",)},)
    )

    refused, _, _ = await ask(service, "GET", "/streaming/status")
    code, _, _ = await ask(service, "GET", "/streaming/openapi.json")

    assert (refused, code) == (401, 200)


# What goes over the socket

SENT: Final = tuple(
    message["$ref"].rpartition("/")[2] for message in ASYNCAPI["operations"]["deliver"]["messages"]
)


def kind_of(message: Message) -> list[str]:
    """Which of the messages that AsyncAPI describes this is."""
    return [
        name
        for name in SENT
        if not faults(ASYNCAPI, ASYNCAPI["components"]["messages"][name]["payload"], message)
    ]


async def test_everything_on_the_socket_is_one_of_the_messages_that_asyncapi_describes(
    server: StreamingService,
) -> None:
    seen: list[str] = []

    def note(message: Message) -> Message:
        found = kind_of(message)
        assert len(found) == 1, (found, message)
        seen.extend(found)
        return message

    async with websocket(server.url) as socket:
        await socket.send(message_type="ping")
        note(await socket.receive())
        for message_type in ("metrics_update", "alert", "status_update"):
            await socket.send(message_type=message_type, cursor="nonsense")
            for message in await socket.until(lambda m: m["data"].get("event") == "snapshot"):
                note(message)
        await socket.send(message_type="metrics_update", topic="history")
        for message in await socket.until(lambda m: m["data"].get("event") == "sampled"):
            note(message)
        for model in ("ten-tokens", "html-502"):
            await socket.start(f"r-{model}", model=model)
            for message in await socket.answer():
                note(message)
        await ask(server, "POST", "/streaming/alerts", json={"version": "4", "alerts": [ALERT]})
        for message in await socket.until(lambda m: m["data"].get("event") == "firing"):
            note(message)
        await socket.send(message_type="alert", action="unsubscribe")
        for message in await socket.until(lambda m: m["data"].get("event") == "unsubscribed"):
            note(message)

    assert set(SENT) == set(seen)


def test_notices_are_distinguished_from_errors_and_messages_on_streams() -> None:
    payload = notice("chat_completion", {"event": "queued", "position": 3}, stream="chat/r-1")

    assert kind_of(json.loads(payload)) == ["notice"]
