"""/openapi.json tells programs what docs/protocol.txt tells people, and the instance does as it says."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

import restmq
from restmq import web
from restmq.api import queue as rest
from restmq.api.commands import COMMANDS
from restmq.http.handler import Handler
from restmq.model.settings import DEFAULTS
from tests.support.openapi import API, matched, operations, resolved, undeclared
from tests.support.requests import BATCH, FORM, TEXT

JSON = {"Content-Type": "application/json"}


def test_it_is_served_as_it_stands_in_the_repository_and_of_this_version(instance: Any) -> None:
    status, headers, body = instance.http("GET", "/openapi.json")
    assert (status, headers["content-type"], json.loads(body)) == (200, "application/json", API)
    assert (API["openapi"], API["info"]["version"]) == ("3.1.0", restmq.__version__)


def test_it_has_every_route_with_every_method_and_no_other() -> None:
    ours = set()
    for pattern, handler in web.ROUTES:
        assert issubclass(handler, Handler)
        path = pattern.replace("\\", "").replace("/?", "/").replace("(.+)", "{file}").replace("([0-9]+)", "{number}")
        several = path.startswith(("/c/", "/sse/", "/ws/"))
        path = path.replace("([^/]+)", "{names}" if several else "{name}")
        own = {method for method in handler.verbs if method != "HEAD" or handler is rest.Queue}
        ours |= {(method, path) for method in own}
    assert ours == {(method, path) for method, path, _ in operations()}


def test_every_reference_leads_somewhere_and_nothing_is_there_for_nobody() -> None:
    words = re.findall(r'"\$ref": "#/components/([a-z]+/\w+)"', json.dumps(API))
    there = {f"{kind}/{name}" for kind, parts in API["components"].items() for name in parts}
    assert set(words) == there - {"securitySchemes/basic"}
    names = [described["operationId"] for *_, described in operations()]
    assert len(names) == len(set(names))
    assert {tag for *_, described in operations() for tag in described["tags"]} == {tag["name"] for tag in API["tags"]}
    for _, path, described in operations():
        told = map(resolved, [*API["paths"][path].get("parameters", ()), *described.get("parameters", ())])
        assert {one["name"] for one in told if one["in"] == "path"} == set(re.findall(r"{(\w+)}", path))


def test_it_knows_the_settings_and_the_commands() -> None:
    schemas = API["components"]["schemas"]
    settings = schemas["Settings"]["properties"]["settings"]["properties"]
    assert set(schemas["Change"]["properties"]) == set(settings) == {*DEFAULTS}
    command = schemas["Command"]["properties"]
    assert set(command["cmd"]["enum"]) == set(COMMANDS)
    assert set(command) == {"cmd", "queue", "id"}.union(*(field for *_, field in COMMANDS.values()))


def test_answers_are_as_their_schemas_say(instance: Any, queue: str) -> None:
    from jsonschema import Draft202012Validator  # not on PyPy, where this file is left out

    for schema in API["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)
    requests = [
        ("POST", "/q/{}", "value=one", FORM, 200),
        ("POST", "/q/{}", "a\nb\nc\nd\ne", BATCH, 200),
        ("POST", "/q/{}", "late", {**TEXT, "RestMQ-Delay": "1h"}, 200),
        ("POST", "/", "queue={}&value=two", FORM, 200),
        ("POST", "/q/{}", "wrong=1", FORM, 400),
        ("POST", "/q/{}", "k", {**TEXT, "Idempotency-Key": "k{}"}, 200),
        ("POST", "/q/{}", "K", {**TEXT, "Idempotency-Key": "k{}"}, 422),
        ("GET", "/q/{}", None, {}, 200),
        ("GET", "/q/{}?max=1", None, {}, 200),
        ("GET", "/q/{}?lease=1m", None, {}, 200),
        ("POST", "/q/{}/take?lease=1m&max=1", None, {}, 200),
        ("GET", "/q/{}none", None, {}, 204),
        ("GET", "/?queue={}none", None, {}, 404),
        ("HEAD", "/q/{}", None, {}, 200),
        ("GET", "/q/{}/3", None, {}, 200),
        ("POST", "/q/{}/3", "lease=5m", FORM, 200),
        ("POST", "/q/{}/3", "lease=0&error=why", FORM, 200),
        ("POST", "/q/{}/3", "lease=1m", FORM, 412),
        ("POST", "/q/{}/99", "lease=1m", FORM, 404),
        ("POST", "/q/{}/ack", '{"ack": ["9.9@e"], "nack": [{"lease": "8.8@e", "delay": 1}]}', JSON, 200),
        ("DELETE", "/q/{}/4", None, {}, 200),
        ("DELETE", "/q/{}/5", None, {"If-Match": '"5.5@e"'}, 412),
        ("POST", "/queue", '{"cmd": "add", "queue": "{}", "value": [1], "id": 7}', JSON, 200),
        ("POST", "/queue", '{"cmd": "get", "queue": "{}"}', JSON, 200),
        ("POST", "/queue", '{"cmd": "take", "queue": "{}", "lease": 60}', JSON, 200),
        ("POST", "/queue", '{"cmd": "touch", "queue": "{}", "key": "{}:3", "lease": 0}', JSON, 200),
        ("POST", "/queue", '{"cmd": "del", "queue": "{}", "key": "{}:3", "id": "x"}', JSON, 200),
        ("POST", "/queue", '{"cmd": "got", "queue": "{}"}', JSON, 200),
        ("POST", "/queue", "{", JSON, 400),
        ("GET", "/p/{}", None, {}, 200),
        ("POST", "/p/{}", "policy=roundrobin", FORM, 200),
        ("POST", "/p/{}", "policy=random", FORM, 400),
        ("GET", "/control/{}", None, {}, 200),
        ("POST", "/control/{}", "status=stop&what=pull,add&for=1h", FORM, 200),
        ("GET", "/q/{}", None, {}, 503),
        ("GET", "/control/{}", None, {}, 200),
        ("POST", "/control/{}", "status=start", FORM, 200),
        ("GET", "/control/?match={}", None, {}, 200),
        ("POST", "/settings/{}", '{"max_length": 1, "backoff": "exp:1s:10m"}', JSON, 200),
        ("GET", "/settings/{}", None, {}, 200),
        ("POST", "/q/{}", "value=more", FORM, 429),
        ("GET", "/stats/{}", None, {}, 200),
        ("GET", "/stats/?match={}", None, {}, 200),
        ("GET", "/peek/{}?max=1", None, {}, 200),
        ("GET", "/peek/{}?state=delayed", None, {}, 200),
        ("GET", "/peek/{}?state=leased&after={}:99", None, {}, 410),
        ("GET", "/dead/{}", None, {}, 200),
        ("POST", "/dead/{}", "kick=5", FORM, 200),
        ("DELETE", "/dead/{}", None, {}, 200),
        ("GET", "/ledger/{}", None, {}, 200),
        ("GET", "/metrics?match={}", None, {}, 200),
        ("GET", "/healthz", None, {}, 200),
        ("GET", "/readyz", None, {}, 200),
        ("GET", "/ws/{}", None, {}, 426),
        ("DELETE", "/q/{}", None, {}, 200),
        *(("GET", path, None, {}, 200) for path in ("/", "/queue", "/q/", "/j/{}", "/robots.txt")),
        ("GET", "/static/restmq.css", None, {}, 200),
    ]
    for method, path, body, headers, wanted in requests:
        path, text = path.replace("{}", queue), (body or "").replace("{}", queue)
        fields = {name: value.replace("{}", queue) for name, value in headers.items()}
        status, told, answer = instance.http(method, path, text or None, fields)
        assert status == wanted, (method, path, answer)
        found = matched(method, path)
        assert found is not None, path
        response = resolved(found[1]["responses"][str(status)])
        assert {name.lower() for name in response.get("headers", {})} <= {*told, "etag", "idempotency-replayed"}, path
        kinds = response.get("content", {})
        kind = told.get("content-type", "").partition(";")[0]
        if not answer:
            continue
        assert kind in kinds or "*/*" in kinds, (method, path, kind)
        if kind.endswith("json"):
            errors = Draft202012Validator({**kinds[kind]["schema"], "components": API["components"]}).iter_errors(
                json.loads(answer)
            )
            assert not [error.message for error in errors], (method, path, answer)


@pytest.mark.parametrize(
    ("schema", "wrong"),
    [
        ("Element", {"count": 0, "key": "q", "value": "v"}),
        ("Ledger", {"queue": "q", "imbalance": 1}),
        ("Problem", {"error": "e", "type": "urn:other:x", "title": "t", "status": 400}),
        ("Lease", "1.1"),
    ],
)
def test_a_wrong_answer_would_be_found(schema: str, wrong: Any) -> None:
    from jsonschema import Draft202012Validator

    whole = {"$ref": f"#/components/schemas/{schema}", "components": API["components"]}
    assert not Draft202012Validator(whole).is_valid(wrong)


def test_a_status_that_is_not_told_would_be_found() -> None:
    good = "2026-01-01T00:00:00.000Z 127.0.0.1 GET /q/jobs?max=5 200 5 0.10"
    wrong = [good.replace(" 200 ", " 299 "), good.replace("/q/jobs", "/x")]
    assert undeclared([good, *wrong]) == wrong
