"""Who is let in, on the wire: every route and every command, by address, password, host and page."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import re
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from restmq.access import acl
from restmq.api import commands
from restmq.http.counts import route_name
from restmq.http.handler import Handler
from restmq.web import ROUTES
from tests import ROOT
from tests.support.listener import Listener
from tests.support.patience import PATIENCE
from tests.support.requests import FORM, basic
from tests.support.websocket import HANDSHAKE, Talker

PRODUCER, CONSUMER, ADMIN, OPEN = "rest:producer", "rest:consumer", "admin", ""
COMET, SSE, SOCKET = "comet:consumer", "sse:consumer", "websocket:consumer"
UPGRADE = dict(line.split(": ", 1) for line in HANDSHAKE.splitlines())
EVIL = "http://evil.example"

#: What is decided for each route: (method, pattern) -> section, and a request that it serves. A route that
#: does not stand here fails the first test below.
DECIDED: dict[tuple[str, str], tuple[str, str, str]] = {
    ("GET", r"/"): (OPEN, "/", ""),
    ("POST", r"/"): (PRODUCER, "/", "queue={}&value=x"),
    ("POST", r"/q/([^/]+)"): (PRODUCER, "/q/{}", "value=x"),
    ("GET", r"/q/([^/]+)"): (CONSUMER, "/q/{}", ""),
    ("HEAD", r"/q/([^/]+)"): (CONSUMER, "/q/{}", ""),
    ("DELETE", r"/q/([^/]+)"): (ADMIN, "/q/{}", ""),
    ("POST", r"/q/([^/]+)/take"): (CONSUMER, "/q/{}/take", ""),
    ("POST", r"/q/([^/]+)/ack"): (CONSUMER, "/q/{}/ack", '{"ack": []}'),
    ("GET", r"/q/([^/]+)/([0-9]+)"): (CONSUMER, "/q/{}/1", ""),
    ("POST", r"/q/([^/]+)/([0-9]+)"): (CONSUMER, "/q/{}/1", "lease=5"),
    ("DELETE", r"/q/([^/]+)/([0-9]+)"): (CONSUMER, "/q/{}/1", ""),
    ("GET", r"/queue"): (OPEN, "/queue", ""),
    ("POST", r"/queue"): (PRODUCER, "/queue", '{"cmd": "add", "queue": "{}", "value": "x"}'),  # and more below
    ("GET", r"/c/([^/]+)"): (COMET, "/c/{}", ""),
    ("GET", r"/sse/([^/]+)"): (SSE, "/sse/{}", ""),
    ("GET", r"/ws/([^/]+)"): (SOCKET, "/ws/{}", ""),
    ("GET", r"/p/([^/]+)"): (CONSUMER, "/p/{}", ""),
    ("POST", r"/p/([^/]+)"): (ADMIN, "/p/{}", "policy=broadcast"),
    ("GET", r"/control/?"): (CONSUMER, "/control/", ""),
    ("GET", r"/control/([^/]+)"): (CONSUMER, "/control/{}", ""),
    ("POST", r"/control/([^/]+)"): (ADMIN, "/control/{}", "status=start"),
    ("GET", r"/stats/?"): (CONSUMER, "/stats/", ""),
    ("GET", r"/stats/([^/]+)"): (CONSUMER, "/stats/{}", ""),
    ("GET", r"/settings/([^/]+)"): (CONSUMER, "/settings/{}", ""),
    ("POST", r"/settings/([^/]+)"): (ADMIN, "/settings/{}", "history=5"),
    ("GET", r"/peek/([^/]+)"): (CONSUMER, "/peek/{}", ""),
    ("GET", r"/dead/([^/]+)"): (CONSUMER, "/dead/{}", ""),
    ("POST", r"/dead/([^/]+)"): (ADMIN, "/dead/{}", "kick=1"),
    ("DELETE", r"/dead/([^/]+)"): (ADMIN, "/dead/{}", ""),
    ("GET", r"/ledger/([^/]+)"): (CONSUMER, "/ledger/{}", ""),
    ("GET", r"/metrics"): (CONSUMER, "/metrics", ""),
    ("GET", r"/q/?"): (CONSUMER, "/q/", ""),
    ("GET", r"/j/([^/]+)"): (CONSUMER, "/j/{}", ""),
    ("GET", r"/healthz"): (OPEN, "/healthz", ""),
    ("GET", r"/readyz"): (OPEN, "/readyz", ""),
    ("GET", r"/robots\.txt"): (OPEN, "/robots.txt", ""),
    ("GET", r"/openapi\.json"): (OPEN, "/openapi.json", ""),
    ("GET", r"/static/(.+)"): (OPEN, "/static/restmq.css", ""),
}
#: HEAD is let in where GET is. What streams has none, and that of a queue is told above.
DECIDED.update(
    {
        ("HEAD", pattern): decided
        for (method, pattern), decided in DECIDED.items()
        if method == "GET" and ("HEAD", pattern) not in DECIDED and decided[0] not in (COMET, SSE, SOCKET)
    }
)
COMMANDS = {
    "add": (PRODUCER, '"value": "x"'),
    "get": (CONSUMER, '"id": 1'),
    "take": (CONSUMER, '"id": 1'),
    "del": (CONSUMER, '"key": "{}:1"'),
    "touch": (CONSUMER, '"key": "{}:1", "lease": 5'),
}
#: Further requests: what a route does may rest on more than its path.
MORE = [
    (PRODUCER, "POST", "/q/{}?ttl=5", "value=x"),
    (ADMIN, "DELETE", "/q/{}?forget=1", ""),
    *((CONSUMER, "GET", f"/?{query}", "") for query in ("queue={}", "%71ueue={}", "a=b&q%75eue={}")),
    (CONSUMER, "GET", "/?queue={}&queue={}", ""),
    (ADMIN, "POST", "/control/{}", "status=stop&what=pull&for=1ms"),
    (CONSUMER, "GET", "/peek/{}?state=dead&max=5", ""),
    (CONSUMER, "GET", "/metrics?match=x", ""),
    *((CONSUMER, "GET", path, "") for path in ("/stats", "/control", "/q", "/stats/?max=5", "/stats/{}?callback=f")),
]  # fmt: skip
REQUESTS = [
    *((section, method, path, body) for (method, _), (section, path, body) in DECIDED.items()),
    *MORE,
    *((section, "POST", "/queue", f'{{"cmd": "{word}", "queue": "{{}}", {rest}}}')
      for word, (section, rest) in COMMANDS.items()),
    *((section, "POST", "/queue", f'page=1&body={{"cmd": "{word}", "queue": "{{}}", {rest}}}')
      for word, (section, rest) in COMMANDS.items()),
]  # fmt: skip


def asked(
    one: Any,
    method: str,
    path: str,
    body: str = "",
    headers: dict[str, str] | None = None,
    source: str = "127.0.0.1",
    queue: str = "access",
) -> int:
    """The status of one request, from an address of this machine; a stream is left at once."""
    fields = {**FORM, **(UPGRADE if path.startswith("/ws") else {}), **(headers or {})}
    link = http.client.HTTPConnection("127.0.0.1", one.port, timeout=PATIENCE, source_address=(source, 0))
    try:
        link.request(method, path.replace("{}", queue), body.replace("{}", queue) or None, fields)
        return link.getresponse().status
    finally:
        link.close()


_strangers = itertools.count()


def stranger() -> str:
    """An address of this machine that no other request came from."""
    number = next(_strangers)
    return f"127.7.{number >> 8}.{number & 255}"


def password(section: str) -> dict[str, str]:
    """What the instance `guarded` takes for a section."""
    return basic(f"u-{section.replace(':', '-')}", f"p-{section}")


@pytest.fixture(scope="module")
def module_start(redis_server: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Starts instances that a module shares."""
    from tests.support.instance import Instance, troubles

    started: list[Any] = []

    def one(conf: str) -> Any:
        started.append(Instance(tmp_path_factory.mktemp("shared"), redis_server.address, conf))
        return started[-1]

    yield one
    texts = [made.stop() for made in started]
    assert not [text for text in texts if troubles(text)], texts


@pytest.fixture(scope="module")
def guarded(module_start: Any) -> Any:
    """Each section has a password of its own, keeps 127.0.0.9 out, and lets 127.0.0.5 in without one."""
    return module_start(
        "".join(
            f"[{kind}]\nhosts_deny = 127.0.0.9\nusername = u-{kind.replace(':', '-')}\npassword = p-{kind}\n"
            f"[{kind} office]\nhosts_allow = 127.0.0.5\n"
            for kind in acl.KINDS
        )
    )


# What is decided


def test_every_route_and_every_command_has_a_decided_section() -> None:
    there = {(method, pattern) for pattern, handler in ROUTES for method in handler.verbs}
    assert there == set(DECIDED)
    assert set(COMMANDS) == set(commands.COMMANDS)
    assert all(issubclass(handler, Handler) for _, handler in ROUTES)


def documented() -> tuple[dict[tuple[str, str], str], dict[str, str]]:
    """What docs/protocol.txt says under Access: (method, path) -> section, command -> section."""
    text = (ROOT / "docs/protocol.txt").read_text("utf-8").partition("\nAccess\n------\n")[2]
    table = text.partition("\nHEAD needs")[0]
    requests: dict[tuple[str, str], str] = {}
    commands: dict[str, str] = {}
    for section, lines in re.findall(r"^    (\S+)  +(\S.*\n(?:     +.+\n)*)", table, re.MULTILINE):
        told, last = " ".join(lines.split()), ""
        for listed in re.findall(r"the commands? ([\w, ]+)", told):
            commands.update(dict.fromkeys(re.split(", | and ", listed), section))
        for method, path in re.findall(r"\b([A-Z]{3,})\b|(/[^\s,;]*)", told):
            last = method or last
            if path:
                requests[last, path] = section
        for several, path in re.findall(r"((?:[A-Z]{3,} and )+[A-Z]{3,}) (/[^\s,;]*)", told):
            requests.update({(each, path): section for each in several.split(" and ")})
    return requests, commands


def test_the_access_section_of_the_protocol_says_what_is_decided() -> None:
    requests, commands = documented()
    assert commands == {word: section for word, (section, _) in COMMANDS.items()}
    open_to_all = set()
    for (method, pattern), (section, *_) in DECIDED.items():
        name = route_name(pattern)
        found = {
            said
            for (verb, path), said in requests.items()
            if verb == ("GET" if method == "HEAD" else method)
            and (path == name or (re.fullmatch(r"/[a-z]+", path) and name.startswith(path + "/")))
        }
        if (method, name) == ("POST", "/queue"):
            assert not found  # it is told by its commands
        elif found:
            assert found == {section}, (method, name)
        else:
            assert section == OPEN, (method, name)
            open_to_all.add(name)
    assert open_to_all == {"/", "/queue", "/healthz", "/readyz", "/robots.txt", "/openapi.json", "/static/FILE"}
    assert requests["GET", "/?queue=NAME"] == CONSUMER
    assert len(set(requests.values())) == len(acl.KINDS)


def test_no_answer_lets_a_browser_guess_its_type(instance: Any, guarded: Any, queue: str) -> None:
    for one, wanted in ((instance, {101, 200, 204}), (guarded, {200, 401})):
        statuses = set()
        for _, method, path, body in [*REQUESTS, (OPEN, "GET", "/nothing", ""), (OPEN, "BREW", "/q/{}", "")]:
            fields = {**FORM, **(UPGRADE if path.startswith("/ws") else {})}
            with contextlib.closing(http.client.HTTPConnection("127.0.0.1", one.port, timeout=PATIENCE)) as link:
                link.request(method, path.replace("{}", queue), body.replace("{}", queue) or None, fields)
                reply = link.getresponse()
            assert reply.getheader("X-Content-Type-Options") == "nosniff", (method, path)
            statuses.add(reply.status)
        assert statuses >= wanted


def test_head_answers_what_get_does_without_the_body_and_takes_nothing(instance: Any, queue: str) -> None:
    for value in "ab":
        instance.form(f"/q/{queue}", f"value={value}")
    for (method, pattern), (_, path, _) in DECIDED.items():
        if method == "HEAD" and pattern != r"/q/([^/]+)":
            path = path.replace("{}", queue)
            status, headers, body = instance.http("HEAD", path)
            assert (status, body) == (200, b""), path
            got, told, full = instance.http("GET", path)
            assert (got, told["content-type"]) == (200, headers["content-type"])
            if not re.search("/metrics|stats|/peek|/1$", path):  # what these tell moves
                assert int(headers["content-length"]) == len(full) > 0, path
    assert instance.http("HEAD", "/nothing/there")[0] == 404
    for path in ("/c/{}", "/sse/{}", "/ws/{}", "/q/{}/take", "/?queue={}", "/?%71ueue={}"):
        status, headers, body = instance.http("HEAD", path.replace("{}", queue))
        assert (status, body, "HEAD" in headers["allow"]) == (405, b"", False), path
    assert instance.http("HEAD", f"/q/{queue}")[1]["restmq-waiting"] == "2"
    with socket.create_connection(("127.0.0.1", instance.port)) as link:  # nothing of a body is in the way of the next
        link.sendall(b"HEAD /queue HTTP/1.1\r\nHost: localhost\r\n\r\n" * 2 + b"GET /healthz HTTP/1.0\r\n\r\n")
        got = b""
        while part := link.recv(65536):
            got += part
    assert re.sub(rb"HTTP/1.1 200 OK\r\n(?:.+\r\n)+\r\n", b"", got) == b"OK\r\n"


def test_the_requests_of_the_table_reach_the_routes_that_they_stand_for() -> None:
    for (method, pattern), (_, path, _) in DECIDED.items():
        fitting = next(found for found, _ in ROUTES if re.fullmatch(found, path.replace("{}", "access")))
        assert fitting == pattern, (method, path)


# Addresses and passwords


@pytest.mark.parametrize(("section", "method", "path", "body"), REQUESTS)
def test_a_request_needs_its_section_s_address_and_password(
    guarded: Any, section: str, method: str, path: str, body: str
) -> None:
    def ask(source: str, shown: dict[str, str]) -> int:
        return asked(guarded, method, path, body, shown, source)

    others = [kind for kind in acl.KINDS if kind != section]
    wrong = [basic(f"u-{section.replace(':', '-')}", "wrong"), *(password(kind) for kind in others)]
    if section == OPEN:
        assert {ask(source, {}) for source in ("127.0.0.1", "127.0.0.9")} == {200}
        return
    assert ask("127.0.0.1", {}) == 401
    assert {ask(stranger(), shown) for shown in wrong} == {401}  # many guesses of one address would be delayed
    assert {ask("127.0.0.9", shown) for shown in ({}, *wrong, password(section))} == {403}
    assert ask("127.0.0.1", password(section)) in (101, 200, 204, 400, 404)
    assert ask("127.0.0.5", {}) in (101, 200, 204, 400, 404)


@pytest.mark.parametrize("word", COMMANDS)
def test_a_command_on_a_websocket_needs_its_own_section_too(start: Any, queue: str, word: str) -> None:
    section, rest = COMMANDS[word]
    one = start(f"[websocket:consumer]\n[{section}]\nhosts_deny = 127.0.0.9\nusername = jo\npassword = pw\n")
    command = f'{{"cmd": "{word}", "queue": "{{}}", {rest}}}'.replace("{}", queue)
    ours = f"http://127.0.0.1:{one.port}"

    def ask(source: str = "127.0.0.1", **headers: str) -> int:
        with Talker(one.port, f"/ws/{queue}.other", headers, source) as ws:
            ws.send(command)
            answer: int = json.loads(ws.recv()).get("status", 200)
            return answer

    assert ask() == 401
    assert ask(**basic("jo", "wrong")) == 401
    assert ask(**basic("jo", "pw")) == 200
    assert ask("127.0.0.9", **basic("jo", "pw")) == 403
    assert ask(Cookie="auth=jo:pw", Origin=ours) == 200
    assert ask(Cookie="auth=jo:wrong", Origin=ours) == 401
    assert ask(Cookie="auth=jo:pw") == 403  # it must send its Origin


def test_without_admin_both_rest_sections_are_needed(start: Any) -> None:
    one = start(
        f"[{PRODUCER}]\nhosts_deny = 127.0.0.8\nusername = jo\npassword = pw\n"
        f"[{CONSUMER}]\nhosts_deny = 127.0.0.9\nusername = jo\npassword = pw\n"
    )
    for section, method, path, body in REQUESTS:
        if section == ADMIN:
            assert asked(one, method, path, body) == 401
            assert asked(one, method, path, body, basic("jo", "pw")) == 200
            for source in ("127.0.0.8", "127.0.0.9"):
                assert asked(one, method, path, body, basic("jo", "pw"), source) == 403


def test_a_live_section_that_is_absent_follows_rest_consumer(start: Any) -> None:
    one = start(
        "[rest:consumer]\nhosts_deny = 127.0.0.9\nusername = jo\npassword = pw\n"
        "[rest:producer]\nusername = jo\npassword = other\n"
    )
    ours = f"http://127.0.0.1:{one.port}"
    for path, status in (("/c/{}", 200), ("/sse/{}", 200), ("/ws/{}", 101), ("/c/{}?tap=1", 200)):
        assert asked(one, "GET", path) == 401
        assert asked(one, "GET", path, "", basic("jo", "other")) == 401
        assert asked(one, "GET", path, "", basic("jo", "pw")) == status
        assert asked(one, "GET", path, "", basic("jo", "pw"), "127.0.0.9") == 403
        cookie = {"Cookie": "auth=jo:pw", "Origin": ours}
        assert asked(one, "GET", path, "", cookie) == (101 if status == 101 else 401)
    with Talker(one.port, "/ws/a", {"Cookie": "auth=jo:pw", "Origin": ours}) as ws:
        ws.send('{"cmd": "take", "queue": "a"}')
        assert json.loads(ws.recv()) == {"error": "empty queue"}
        ws.send('{"cmd": "add", "queue": "a", "value": "x"}')
        assert json.loads(ws.recv())["status"] == 401


def test_without_sse_the_rules_of_comet_hold(start: Any) -> None:
    one = start("[comet:consumer]\nhosts_deny = 127.0.0.9\nusername = jo\npassword = pw\n")
    for path in ("/c/{}", "/sse/{}"):
        assert asked(one, "GET", path) == 401
        assert asked(one, "GET", path, "", basic("jo", "pw")) == 200
        assert asked(one, "GET", path, "", basic("jo", "pw"), "127.0.0.9") == 403
    assert asked(one, "GET", "/ws/{}", source="127.0.0.9") == 101
    one = start("[comet:consumer]\nhosts_deny = all\n[sse:consumer]\nusername = jo\npassword = pw\n")
    assert asked(one, "GET", "/c/{}") == 403
    assert asked(one, "GET", "/sse/{}") == 401


def test_the_order_is_hosts_allow_then_hosts_deny(start: Any) -> None:
    one = start(
        "[rest:producer]\nhosts_allow = 127.0.0.4/31 ::1\nhosts_deny = 127.0.0.\n"
        "[rest:consumer]\nhosts_allow = 127.0.0.7\n"
    )
    adds = {n: asked(one, "POST", "/q/{}", "value=x", source=f"127.0.0.{n}") for n in (1, 4, 5, 6)}
    assert adds == {1: 403, 4: 200, 5: 200, 6: 403}
    looks = {n: asked(one, "GET", "/stats/", source=f"127.0.0.{n}") for n in (1, 7)}
    assert looks == {1: 403, 7: 200}


def test_what_is_open_is_open_to_all_and_the_rest_is_not(start: Any) -> None:
    one = start("".join(f"[{kind}]\nhosts_deny = all\n" for kind in acl.KINDS))
    for section, method, path, body in REQUESTS:
        assert asked(one, method, path, body) == (200 if section == OPEN else 403), (method, path)


def test_a_401_asks_for_basic_and_a_wrong_header_is_no_password(guarded: Any) -> None:
    for header in ("Basic", "Basic !!!", "Bearer eA==", "Basic " + "eA" * 5000, "basic =", "Basic " + "=" * 100):
        status, headers, body = guarded.http("GET", "/stats/", None, {"Authorization": header})
        assert (status, json.loads(body)["type"]) == (401, "urn:restmq:unauthorized")
        assert headers["www-authenticate"].startswith("Basic realm=")
        assert b"p-rest" not in body


# WebSocket handshakes


def test_a_websocket_is_opened_with_basic_or_with_a_cookie_and_an_origin_that_passes(guarded: Any) -> None:
    right, ours = "auth=u-websocket-consumer:p-websocket:consumer", f"http://127.0.0.1:{guarded.port}"
    quoted = "auth=u-websocket-consumer%3Ap-websocket%3Aconsumer"
    for headers, wanted in [
        (password(SOCKET), 101),
        ({**password(SOCKET), "Origin": ours}, 101),
        ({**password(SOCKET), "Origin": EVIL}, 403),
        ({"Cookie": right, "Origin": ours}, 101),
        ({"Cookie": f"a=b; {quoted}; c=d", "Origin": ours}, 101),
        ({"Cookie": right}, 403),
        ({"Cookie": right, "Origin": EVIL}, 403),
        ({"Cookie": right, "Origin": "null"}, 403),
        ({"Cookie": right + "x", "Origin": ours}, 401),
        ({"Cookie": "auth=", "Origin": ours}, 401),
    ]:
        assert asked(guarded, "GET", "/ws/{}", "", headers) == wanted, headers
    assert asked(guarded, "GET", "/q/{}", "", {"Cookie": "auth=u-rest-consumer:p-rest:consumer", "Origin": ours}) == 401


# Reload


def test_a_rule_that_changes_closes_what_it_now_forbids_at_the_next_heartbeat(start: Any, queue: str) -> None:
    rules = "[live]\nheartbeat = 0.3\n[websocket:consumer]\n{0}\n[comet:consumer]\n{0}\n[rest:producer]\n{0}\n"
    one = start(rules.format(""))
    comet, sse = Listener(one.port, f"/c/{queue}"), Listener(one.port, f"/sse/{queue}")
    kept = http.client.HTTPConnection("127.0.0.1", one.port, timeout=PATIENCE)

    def add() -> int:
        kept.request("POST", f"/q/{queue}", "value=x", FORM)
        reply = kept.getresponse()
        reply.read()
        return reply.status

    with Talker(one.port, f"/ws/{queue}") as ws:
        assert add() == 200  # the connection is remembered as one that may
        one.conf.write_text(rules.format("hosts_deny = 127.0.0.9"))
        while comet.body.count(b"\r\n") <= 12:  # heartbeats, for all three are still let in
            assert not comet.ended
            comet.read(0.1)
            ws.poll()
        assert add() == 200
        one.conf.write_text(rules.format("hosts_deny = all"))
        with pytest.raises(ConnectionClosed) as closed:
            while True:
                ws.recv()
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason[:9]) == (1008, "127.0.0.1")
        comet.until_end()
        sse.until_end()
        assert b"is not let into [comet:consumer]" not in comet.body
        assert b": 127.0.0.1 is not let into [sse:consumer]" in sse.body
    assert add() == 403
    kept.close()
    with pytest.raises(InvalidStatus):
        Talker(one.port, f"/ws/{queue}")


def test_a_password_that_changes_closes_whoever_showed_the_old_one(start: Any, queue: str) -> None:
    rules = "[live]\nheartbeat = 0.3\n[comet:consumer]\nusername = jo\npassword = {0}\n"
    one = start(rules.format("old"))
    header = "Authorization: " + basic("jo", "old")["Authorization"] + "\r\n"
    comet = Listener(one.port, f"/c/{queue}", header)
    assert comet.status == 200
    one.conf.write_text(rules.format("new"))
    comet.until_end()
    assert Listener(one.port, f"/c/{queue}", header).status == 401
    assert "old" not in one.log.read_text()


# Proxies


def proxied(one: Any, source: str = "127.0.0.1", **headers: str) -> int:
    """The status of an add with header lines of a proxy."""
    return asked(one, "POST", "/q/{}", "value=x", {k.replace("_", "-"): v for k, v in headers.items()}, source)


def test_x_real_ip_names_the_client_if_a_trusted_proxy_says_so(start: Any) -> None:
    one = start(
        "[server]\nxheaders = true\ntrusted_proxies = 127.0.0.2\n[rest:producer]\nhosts_allow = 10.0.0.7 2001:db8::7\n"
    )
    assert proxied(one, "127.0.0.2", X_Real_IP="10.0.0.7") == 200
    assert proxied(one, "127.0.0.2", X_Real_IP="2001:db8::7") == 200
    assert proxied(one, "127.0.0.2", X_Real_IP="10.0.0.8") == 403
    assert proxied(one, "127.0.0.1", X_Real_IP="10.0.0.7") == 403  # nobody asked this one
    assert proxied(one, "127.0.0.2", X_Forwarded_For="10.0.0.7") == 403
    assert proxied(one, "127.0.0.2", X_Forwarded_For="10.0.0.7", X_Real_IP="10.0.0.8") == 403
    assert proxied(one, "127.0.0.2", X_Real_IP="nonsense") == 403
    assert proxied(one, "127.0.0.2") == 403


def test_without_xheaders_no_header_names_the_client(start: Any) -> None:
    one = start("[rest:producer]\nhosts_allow = 10.0.0.7\n")
    assert proxied(one, X_Real_IP="10.0.0.7", X_Forwarded_For="10.0.0.7") == 403


def test_of_x_forwarded_for_the_right_most_that_is_no_proxy_counts(start: Any) -> None:
    one = start(
        "[server]\nxheaders = true\nxheader = X-Forwarded-For\ntrusted_proxies = 127.0.0.1 10.1.0.0/16\n"
        "[rest:producer]\nhosts_allow = 10.0.0.7\n"
    )
    assert proxied(one, X_Forwarded_For="10.0.0.7") == 200
    assert proxied(one, X_Forwarded_For="10.9.9.9, 10.0.0.7") == 200
    assert proxied(one, X_Forwarded_For="10.0.0.7:5678") == 200  # some proxies write the port, too
    assert proxied(one, X_Forwarded_For="10.0.0.7, 10.0.0.8:5678, [::1]:80") == 403
    assert proxied(one, X_Forwarded_For="10.9.9.9,10.0.0.7,10.1.2.3") == 200
    assert proxied(one, X_Forwarded_For="10.0.0.7, 10.9.9.9") == 403
    assert proxied(one, X_Forwarded_For="10.0.0.7, nonsense") == 403
    assert proxied(one, X_Forwarded_For="10.0.0.7, nonsense, 10.1.2.3") == 403
    assert proxied(one, X_Real_IP="10.0.0.7") == 403
    assert proxied(one, X_Forwarded_For="10.9.9.9", X_Real_IP="10.0.0.7") == 403


def test_each_request_of_a_proxy_s_connection_is_judged_for_its_own_client(start: Any) -> None:
    one = start("[server]\nxheaders = true\n[rest:producer]\nhosts_allow = 10.0.0.7\n")
    link = http.client.HTTPConnection("127.0.0.1", one.port, timeout=PATIENCE)
    for client, wanted in [("10.0.0.7", 200), ("10.0.0.8", 403), ("10.0.0.7", 200), ("", 403), ("10.0.0.7", 200)]:
        link.request("POST", "/q/access", "value=x", {**FORM, **({"X-Real-IP": client} if client else {})})
        reply = link.getresponse()
        reply.read()
        assert reply.status == wanted
    link.close()


# Hosts and pages


def test_every_route_but_health_refuses_a_host_that_is_not_ours(instance: Any) -> None:
    for _, method, path, body in REQUESTS:
        open_to_all = path in ("/healthz", "/readyz")
        assert asked(instance, method, path, body, {"Host": "evil.example"}) == (200 if open_to_all else 421), path
    status, _, answer = instance.http("GET", "/stats/", None, {"Host": "evil.example"})
    assert (status, "hosts =" in json.loads(answer)["error"]) == (421, True)
    for host in ("localhost", f"127.0.0.1:{instance.port}", "[::1]", socket.gethostname()):
        assert asked(instance, "GET", "/stats/", "", {"Host": host}) == 200


def test_with_hosts_given_only_those_are_ours(start: Any) -> None:
    one = start("[server]\nhosts = mq.example\nxheaders = true\n")
    for host, wanted in (("mq.example", 200), ("mq.example:80", 200), ("localhost", 421), ("127.0.0.1", 421)):
        for proxy in ({}, {"X-Real-IP": "10.0.0.7"}):
            assert asked(one, "GET", "/stats/", "", {"Host": host, **proxy}) == wanted


def test_a_trusted_proxy_may_pass_any_host_on_where_none_are_given(start: Any) -> None:
    one = start("[server]\nxheaders = true\n")
    assert asked(one, "GET", "/stats/", "", {"Host": "mq.example", "X-Real-IP": "10.0.0.7"}) == 200


def is_page(path: str) -> bool:
    """Whether a link from elsewhere may lead there: it shows something to a person and hands nothing out."""
    return path in ("/", "/queue", "/q/", "/q") or path.startswith(("/j/", "/static/", "/robots", "/openapi"))


@pytest.mark.parametrize(("section", "method", "path", "body"), REQUESTS)
def test_another_origin_s_page_is_refused_and_only_its_links_to_pages_pass(
    instance: Any, section: str, method: str, path: str, body: str
) -> None:
    def ask(**headers: str) -> int:
        return asked(instance, method, path, body, {k.replace("_", "-"): v for k, v in headers.items()})

    passes = path in ("/healthz", "/readyz")
    visit = passes or (method in ("GET", "HEAD") and is_page(path))
    assert (ask(Origin=EVIL) == 403) != passes
    assert (ask(Origin="null") == 403) != passes
    assert (ask(Origin=EVIL, Sec_Fetch_Site="same-origin") == 403) != passes
    assert (ask(Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="no-cors") == 403) != passes
    assert (ask(Sec_Fetch_Site="same-site", Sec_Fetch_Mode="cors") == 403) != passes
    assert (ask(Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="navigate") == 403) != visit
    assert (ask(Referer=EVIL + "/page") == 403) != visit
    ours = f"http://127.0.0.1:{instance.port}"
    assert ask(Origin=ours, Sec_Fetch_Site="same-origin", Sec_Fetch_Mode="cors") != 403
    assert ask(Sec_Fetch_Site="none", Sec_Fetch_Mode="navigate") != 403
    assert ask(Referer=ours + "/queue") != 403
    assert ask() != 403


def test_an_allowed_origin_s_page_may_do_what_ours_may(start: Any) -> None:
    one = start("[server]\nallowed_origins = https://friend.example http://other.example:8080\n")
    for _, method, path, body in REQUESTS:
        for headers in (
            {"Origin": "https://friend.example", "Sec-Fetch-Site": "cross-site"},
            {"Referer": "http://other.example:8080/page"},
        ):
            assert asked(one, method, path, body, headers) != 403, path
        for origin in ("http://friend.example", "https://friend.example:444", "https://friend.example.evil.example"):
            if path not in ("/healthz", "/readyz"):
                assert asked(one, method, path, body, {"Origin": origin}) == 403


FRIEND = "https://friend.example"


@pytest.fixture(scope="module")
def befriended(module_start: Any) -> Any:
    """An instance that lets pages of one other origin use it."""
    return module_start(f"[server]\nallowed_origins = {FRIEND}\n[admin]\nusername = jo\npassword = pw\n")


def told(one: Any, method: str, path: str, body: str, headers: dict[str, str]) -> tuple[int, dict[str, str]]:
    """Status and headers of an answer, of which no more is read."""
    fields = {**FORM, **(UPGRADE if path.startswith("/ws") else {}), **headers}
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", one.port, timeout=PATIENCE)) as link:
        link.request(method, path.replace("{}", "access"), body.replace("{}", "access") or None, fields)
        reply = link.getresponse()
        return reply.status, {name.lower(): value for name, value in reply.getheaders()}


def shared(headers: dict[str, str]) -> list[str]:
    """The header lines of CORS in an answer."""
    return [name for name in headers if name.startswith("access-control-")]


@pytest.mark.parametrize(("section", "method", "path", "body"), REQUESTS)
def test_a_page_of_an_allowed_origin_may_read_the_answer_and_no_other_may(
    befriended: Any, section: str, method: str, path: str, body: str
) -> None:
    status, headers = told(befriended, method, path, body, {"Origin": FRIEND})
    assert status == 401 if section == ADMIN else status in (101, 200, 204, 400, 404), status
    if status != 101:
        assert headers["access-control-allow-origin"] == FRIEND
        assert headers["vary"] == "Origin"
        assert headers["access-control-allow-credentials"] == "true"
        assert {"ETag", "RestMQ-Waiting", "Retry-After"} <= set(headers["access-control-expose-headers"].split(", "))
    ours = f"http://127.0.0.1:{befriended.port}"
    for source in ({}, {"Origin": ours}, {"Origin": EVIL}, {"Referer": FRIEND + "/page"}, {"Origin": "null"}):
        assert shared(told(befriended, method, path, body, source)[1]) == []


def test_a_preflight_tells_a_page_of_an_allowed_origin_what_it_may_and_no_other(befriended: Any) -> None:
    wish = {
        "Access-Control-Request-Method": "DELETE",
        "Access-Control-Request-Headers": "authorization,Content-Type, idempotency-key,if-match,last-event-id,"
        "restmq-ttl,x-other,restmq-a b,cache-control,X-Requested-With,traceparent,x-real-ip,x-forwarded-for,cookie",
    }
    known = "authorization, content-type, idempotency-key, if-match, last-event-id, restmq-ttl, cache-control"
    known += ", x-requested-with, traceparent"
    for pattern, handler in ROUTES:
        path = next(path for (_, other), (_, path, _) in DECIDED.items() if other == pattern)
        status, headers = told(befriended, "OPTIONS", path, "", {"Origin": FRIEND, **wish})
        assert (status, headers["access-control-allow-origin"]) == (204, FRIEND), path
        assert headers["access-control-allow-methods"] == headers["allow"] == ", ".join((*handler.verbs, "OPTIONS"))
        assert headers["access-control-allow-credentials"] == "true"
        assert headers["access-control-allow-headers"] == known
        status, headers = told(befriended, "OPTIONS", path, "", {"Origin": EVIL, **wish})
        assert (status, shared(headers)) == (204 if path in ("/healthz", "/readyz") else 403, []), path
        status, headers = told(befriended, "OPTIONS", path, "", wish)
        assert (status, shared(headers)) == (204, []), path
        assert headers["allow"] == ", ".join((*handler.verbs, "OPTIONS"))
    assert told(befriended, "OPTIONS", "/nothing", "", {"Origin": FRIEND, **wish})[0] == 404


def test_callback_without_a_page_passes_by_a_loopback_name_only(start: Any, queue: str) -> None:
    one = start("[server]\nhosts = mq.example localhost 127.0.0.1\n")
    there: dict[str, str] = {"Host": "mq.example"}
    for path in ("/stats/", f"/p/{queue}", f"/control/{queue}", f"/q/{queue}"):
        for word in ("callback", "c%61llback"):
            assert asked(one, "GET", f"{path}?{word}=f", "", there) == 403
            assert asked(one, "GET", f"{path}?{word}=f", "", {**there, "Sec-Fetch-Site": "same-origin"}) in (200, 204)
            for here in ({}, {"Host": "localhost"}, {"Host": f"127.0.0.1:{one.port}"}):
                assert asked(one, "GET", f"{path}?{word}=f", "", here) in (200, 204)
        assert asked(one, "GET", path, "", there) in (200, 204)
    # It is the parameter that is meant, not the word.
    assert asked(one, "POST", f"/q/{queue}?value=my+callback", "", there) == 200
    assert asked(one, "GET", "/stats/?match=callback&max=5", "", there) == 200
    assert asked(one, "GET", "/?queue=callbacks", "", there) == 404


#: A browser over plain http by another name than localhost, when its page says no-referrer.
UNNAMED = {"User-Agent": "Mozilla/5.0 (X11; Linux; rv:140.0) Gecko/20100101 Firefox/140.0", "Accept-Language": "en"}


@pytest.mark.parametrize(("section", "method", "path", "body"), REQUESTS)
def test_a_browser_that_names_no_page_is_refused_where_elements_are_handed_out(
    instance: Any, section: str, method: str, path: str, body: str
) -> None:
    takes = method == "GET" and (path == "/q/{}" or path.startswith(("/?", "/c/", "/sse/")))
    assert (asked(instance, method, path, body, UNNAMED) == 403) == (takes or "callback" in path)
    assert asked(instance, method, path, body, {"User-Agent": UNNAMED["User-Agent"]}) != 403  # as PowerShell


def test_a_refused_request_leaves_its_connection_and_the_queue_as_they_were(guarded: Any, queue: str) -> None:
    office = ("127.0.0.5", 0)
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", guarded.port, 60, source_address=office)) as owner:

        def waiting() -> str | None:
            owner.request("HEAD", f"/q/{queue}")
            reply = owner.getresponse()
            reply.read()
            return reply.getheader("RestMQ-Waiting")

        owner.request("POST", f"/q/{queue}", "value=x", FORM)
        owner.getresponse().read()
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", guarded.port, timeout=PATIENCE)) as link:
            for _, method, path, body in REQUESTS:
                if "{}" in path + body:
                    link.request(method, path.replace("{}", queue), body.replace("{}", queue), {**FORM, **UPGRADE})
                    reply = link.getresponse()
                    reply.read()
                    assert (reply.status, waiting()) == (401, "1"), path
