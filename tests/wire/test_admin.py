"""Policy, control, stats, pages and health on the wire: what they tell, what they escape, and who may ask."""

from __future__ import annotations

import base64
import html
import json
import re
import socket
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urljoin

import pytest

from restmq.http.handler import Handler
from restmq.web import ROUTES
from tests import ROOT
from tests.support.patience import until
from tests.support.redis_server import RedisServer
from tests.support.requests import FORM

PAGES = ["/", "/queue", "/q/", "/q", "/j/page"]
LOOKS = (
    r"/(q/(\?after=.*)?|j/[^/]+|queue|stats/|static/[\w.]+"
    r"|(peek|dead|stats|ledger|control|settings)/[^/?]+(\?state=\w+)?)?\Z"
)


def look(instance: Any, path: str) -> Any:
    """GET a JSON document."""
    status, headers, body = instance.http("GET", path)
    assert (status, headers["content-type"]) == (200, "application/json"), body
    return json.loads(body)


# Policy and control


def test_the_policy_is_broadcast_until_another_is_set(instance: Any, queue: str) -> None:
    q = queue.encode()
    for policy in ("", "roundrobin", "broadcast"):
        if policy:
            assert instance.form(f"/p/{queue}", f"policy={policy}") == (200, b"OK\r\n")
        wanted = (policy or "broadcast").encode()
        assert instance.http("GET", f"/p/{queue}")[2] == b'{"queue": "%b", "value": "%b"}\r\n' % (q, wanted)
    assert instance.http("POST", f"/p/{queue}?policy=roundrobin")[0::2] == (200, b"OK\r\n")
    assert instance.http("GET", f"/p/{queue}?callback=cb")[2] == b'cb({"queue": "%b", "value": "roundrobin"});\r\n' % q


def test_stop_and_start_are_told_and_a_plain_stop_does_not_stop_get(instance: Any, queue: str) -> None:
    q = queue.encode()
    assert instance.form(f"/control/{queue}", "status=stop")[1] == b'{"stat": {"queue": "%b", "status": 0}}\r\n' % q
    body = instance.http("GET", f"/control/{queue}")[2]
    assert body.startswith(b'{"queue": "%b", "status": {"queue": "%b", "status": 0}, "redis": "' % (q, q))
    assert body.endswith(b'"}\r\n')
    instance.form(f"/q/{queue}", "value=x")
    assert instance.http("GET", f"/q/{queue}")[0] == 200
    assert instance.form(f"/control/{queue}", "status=start")[1] == b'{"stat": {"queue": "%b", "status": 1}}\r\n' % q


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/p/{}", "policy=random"),
        ("/p/{}", "policy="),
        ("/p/{}", ""),
        ("/p/{}", "policy=broadcast&policy=roundrobin"),
        ("/p/{}?polcy=roundrobin", "policy=roundrobin"),
        ("/control/{}", "status=dance"),
        ("/control/{}", "status=STOP"),
        ("/control/{}", ""),
        ("/control/{}?what=pul", "status=stop"),
        ("/control/{}", "status=stop&what=live,"),
        ("/control/{}", "status=stop&for=0"),
        ("/control/{}", "status=stop&for=367d"),
        ("/control/{}", "status=start&for=5"),
        ("/control/{}?callback=1", "status=stop"),
    ],
)
def test_a_wrong_policy_or_status_is_400_and_changes_nothing(instance: Any, queue: str, path: str, body: str) -> None:
    assert instance.form(path.replace("{}", queue), body)[0] == 400
    stats = look(instance, f"/stats/{queue}")
    assert (stats["policy"], stats["status"]) == ("broadcast", 1)


def test_each_flow_has_a_stop_and_an_end_of_its_own(instance: Any, queue: str) -> None:
    def control(body: str) -> Any:
        status, answer = instance.form(f"/control/{queue}", body)
        assert status == 200, answer
        return json.loads(answer)["stat"]

    assert control("status=stop&what=add,pull&for=1h") | {"stops": 0} == {"queue": queue, "status": 1, "stops": 0}
    assert instance.form(f"/q/{queue}", "value=x")[0] == 503
    stops = look(instance, f"/control/{queue}")["status"]["stops"]
    assert list(stops) == ["pull", "add"] and all(3570 < seconds <= 3601 for seconds in stops.values())
    assert control("status=stop&what=add")["stops"]["add"] is None  # a later stop replaces an earlier one
    assert list(control("status=start&what=add")["stops"]) == ["pull"]
    assert instance.form(f"/q/{queue}", "value=x")[0] == 200
    status, headers, body = instance.http("GET", f"/q/{queue}")
    assert (status, json.loads(body)["type"]) == (503, "urn:restmq:stopped")
    assert 3570 < int(headers["retry-after"]) <= 3600
    assert control("status=stop&what=all")["stops"] == {"live": None, "pull": None, "add": None}
    told = look(instance, f"/control/?match={queue}")["queues"][queue]
    assert told == {"queue": queue, "status": 0, "stops": {"live": None, "pull": None, "add": None}}
    assert instance.form(f"/control/{queue}", "status=start")[1] == (
        b'{"stat": {"queue": "%b", "status": 1}}\r\n' % queue.encode()
    )
    assert look(instance, f"/control/{queue}")["status"] == {"queue": queue, "status": 1}
    assert instance.http("GET", f"/q/{queue}")[0] == 200


@pytest.mark.parametrize("what", ["live", "pull", "add"])
def test_a_stop_with_an_end_ends_by_itself(instance: Any, queue: str, what: str) -> None:
    instance.form(f"/control/{queue}", f"status=stop&what={what}&for=300ms")
    ended = {"queue": queue, "status": 1}
    until(
        lambda: look(instance, f"/control/{queue}")["status"] == ended,
        lambda: instance.http("GET", f"/control/{queue}"),
    )
    assert instance.form(f"/q/{queue}", "value=x")[0] == 200
    assert instance.http("GET", f"/q/{queue}")[0] == 200


def test_a_plain_stop_and_start_are_the_seed_s_and_cost_a_queue_nothing(
    instance: Any, queue: str, redis_server: Any
) -> None:
    instance.form(f"/q/{queue}", "value=x")
    link = redis_server.client()
    before = link.get(f"restmq:{{{queue}}}:m")
    for status in (b"stop", b"start"):
        told = b'"queue": "%b", "status": %d}' % (queue.encode(), status == b"start")
        assert instance.form(f"/control/{queue}", f"status={status.decode()}")[1] == b'{"stat": {%b}\r\n' % told
        assert b'"status": {%b, "redis": ' % told in instance.http("GET", f"/control/{queue}")[2]
    assert link.get(f"restmq:{{{queue}}}:m") == before  # an add to it is as cheap as ever


# Looking


def test_stats_of_one_queue_begin_as_the_seed_s_and_have_no_line_end(instance: Any, queue: str) -> None:
    instance.form(f"/q/{queue}", "value=x")
    body = instance.http("GET", f"/stats/{queue}")[2]
    assert re.match(rb'\{"queue": "%b", "redis": "[^"]+", "len": 1, ' % queue.encode(), body)
    assert body.endswith(b"}")
    words = set(json.loads(body))
    assert {"name", "status", "policy", "consumers", "leased", "delayed", "added", "taken", "delivered"} <= words
    assert {"waiters", "dead", "acked", "add_rate", "out_rate"} <= words


def test_listings_page_through_the_names_that_match(instance: Any, queue: str) -> None:
    names = [f"{queue}.{letter}" for letter in "edcba"]
    for name in names:
        instance.form(f"/q/{name}", "value=x")
    names.sort()
    for path in ("/stats/", "/stats", "/control/", "/control"):
        everything = look(instance, f"{path}?match={queue}.")
        assert list(everything) == ["count", "queues", "redis"]
        assert list(everything["queues"]) == names
        assert everything["count"] == 5
        assert list(look(instance, f"{path}?match={queue}.&max=2")["queues"]) == names[:2]
        assert list(look(instance, f"{path}?match={queue}.&max=2&after={names[1]}")["queues"]) == names[2:4]
        assert look(instance, f"{path}?match=no{queue}")["queues"] == {}
    one = look(instance, f"/stats/?match={names[0]}")["queues"][names[0]]
    assert list(one)[:4] == ["name", "len", "status", "policy"]
    assert [one[word] for word in list(one)[:4]] == [names[0], 1, 1, "broadcast"]
    one = look(instance, f"/control/?match={names[0]}")["queues"]
    assert one == {names[0]: {"queue": names[0], "status": 1}}
    assert instance.http("GET", "/control/")[2].endswith(b"}\r\n")
    assert instance.http("GET", f"/stats/?match={queue}&callback=cb")[2].startswith(b'cb({"count": 5, ')


@pytest.mark.parametrize("query", ["max=0", "max=1001", "max=-1", "max=x", "max=%D9%A3", "max=" + "9" * 5000, "mach=x"])
def test_a_wrong_option_of_a_listing_is_400(instance: Any, query: str) -> None:
    for path in ("/stats/", "/control/"):
        assert instance.http("GET", f"{path}?{query}")[0] == 400


def test_no_answer_tells_the_password_of_redis(start: Any, tmp_path: Path) -> None:
    (tmp_path / "redis").mkdir()
    redis = RedisServer(tmp_path / "redis")
    try:
        with socket.socket(socket.AF_UNIX) as link:
            link.connect(str(redis.socket))
            link.sendall(b"CONFIG SET requirepass sesame\r\n")
            assert link.recv(100) == b"+OK\r\n"
        one = start("[redis]\npassword = sesame\n", redis.address)
        one.form("/q/x", "value=x")
        paths = ("/stats/", "/stats/x", "/control/", "/control/x", "/settings/x", "/metrics", "/readyz", "/j/x", "/q/")
        for path in paths:
            status, _, body = one.http("GET", path)
            assert (status, b"sesame" in body) == (200, False)
        assert "sesame" not in one.stop()
    finally:
        redis.stop()


# Pages


def test_pages_show_names_and_values_escaped_and_take_nothing(instance: Any, queue: str) -> None:
    name, value = f"{queue}&'?#%;é", "<script>alert(1)</script>&amp;\"'"
    instance.form(f"/q/{quote(name)}", "value=" + quote(value))
    listing = instance.http("GET", "/q/?after=" + quote(queue))[2].decode()
    link = re.search(rf'<a href="([^"]*)">({re.escape(html.escape(queue))}&amp;[^<]*)</a>', listing)
    assert link
    assert html.unescape(link[2]) == name
    there = urljoin("/q/", html.unescape(link[1]))
    assert unquote(there) == f"/j/{name}"
    status, headers, body = instance.http("GET", there)
    assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
    page = body.decode()
    assert "<script>alert" not in page
    assert value in html.unescape(page)
    assert name in html.unescape(page)
    assert look(instance, f"/stats/{quote(name)}")["len"] == 1


def test_the_newest_ten_are_shown_newest_first(instance: Any, queue: str) -> None:
    assert b"nothing waits" in instance.http("GET", f"/j/{queue}")[2]
    for number in range(1, 13):
        instance.form(f"/q/{queue}", f"value=v{number}")
    page = instance.http("GET", f"/j/{queue}")[2].decode()
    assert re.findall(r"<pre>(v\d+)</pre>", page) == [f"v{number}" for number in range(12, 2, -1)]


def test_the_page_of_a_queue_shows_its_numbers_and_links_to_looks_that_answer(instance: Any, queue: str) -> None:
    name = quote(queue + "é+'%", safe="")
    for value in "abc":
        instance.form(f"/q/{name}", f"value={value}")
    assert instance.form(f"/q/{name}", "value=later&delay=1h")[0] == 200
    instance.http("GET", f"/q/{name}?lease=1h")
    page = instance.http("GET", f"/j/{name}")[2].decode()
    told = dict(re.findall(r"<dt>([^<]*)</dt><dd>([^<]*)</dd>", page))
    shown = {"waiting": "2", "leased or in flight": "1", "delayed": "1", "dead": "0", "added so far": "4"}
    assert {word: told[word] for word in shown} == shown
    links = re.findall(r'href="(../(?:peek|dead|stats|ledger|control|settings)/[^"]+)"', page)
    assert len(links) == 9
    for link in map(html.unescape, links):
        assert look(instance, urljoin("/j/", link))["queue"] == unquote(name)


def test_no_page_links_to_what_consumes(instance: Any, queue: str) -> None:
    instance.form(f"/q/{queue}", "value=x")
    for path in PAGES:
        page = instance.http("GET", path)[2].decode()
        for link in re.findall(r'(?:href|src|action)="([^"]*)"', page):
            assert re.match(LOOKS, urljoin(path, html.unescape(link))), link


def test_the_listing_of_very_many_queues_goes_on_behind_a_link(start: Any) -> None:
    one = start("[redis]\ndbid = 6\n")
    head = "Host: localhost\r\nContent-Type: text/plain\r\nContent-Length: 1\r\n"
    with socket.create_connection(("127.0.0.1", one.port)) as link:
        link.sendall("".join(f"POST /q/n{n:04} HTTP/1.1\r\n{head}\r\nx" for n in range(1005)).encode())
        got = b""
        while b"n1004:1\r\n" not in got:
            got += link.recv(1 << 16)
    first = one.http("GET", "/q/")[2].decode()
    assert first.count("<li>") == 1000
    following = re.search(r'<a href="(../q/\?after=[^"]+)">more</a>', first)
    assert following
    last = one.http("GET", urljoin("/q/", html.unescape(following[1])))[2].decode()
    assert re.findall(r">(n\d+)</a>", last) == [f"n{n:04}" for n in range(1000, 1005)]
    assert "more</a>" not in last
    assert look(one, "/stats/")["count"] == 1000


@pytest.mark.parametrize("path", PAGES)
def test_a_page_lets_any_parameter_pass_and_its_policy_forbids_scripts_of_its_own(instance: Any, path: str) -> None:
    status, headers, body = instance.http("GET", path + "?utm_source=mail&lease=5")
    assert status == 200
    policy = headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    page = body.decode()
    assert not re.search(r"<style|<script(?! src=)|\son\w+=|\sstyle=|javascript:", page)
    assert not re.search(r'(?:src|href|action)="(?!\.\.?/)', page)


def test_static_files_load_nothing_from_elsewhere_and_evaluate_nothing() -> None:
    for path in (ROOT / "frontend").glob("*/*"):
        text = path.read_text("utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?:|//\w+\.|@import|eval\(|new Function|innerHTML", text), path


SCRIPTS = (("here.js", "javascript"), ("queue.js", "javascript"))


def test_examples_show_the_address_that_was_asked(instance: Any) -> None:
    for path in ("/", "/queue"):
        for host in ("localhost", "127.0.0.1:8888", "[::1]:80"):
            status, _, body = instance.http("GET", path, None, {"Host": host})
            assert status == 200 and b"HOST" not in body
            assert f'<span class="here">http://{host}/</span>' in body.decode()


def test_static_files_are_served_and_nothing_beside_them(instance: Any) -> None:
    for name, kind in (*SCRIPTS, ("restmq.css", "text/css"), ("restmq.svg", "image/svg+xml")):
        status, headers, body = instance.http("GET", f"/static/{name}?v=1")
        assert (status, kind in headers["content-type"]) == (200, True)
        assert body == (ROOT / "frontend" / "static" / name).read_bytes()
    for path in (
        "../template/base.html",
        "%2e%2e/template/base.html",
        "..%2ftemplate%2fbase.html",
        "/etc/passwd",
        "%2fetc%2fpasswd",
        ".",
        "%00",
        "%ff",
        "a" * 300,
        "a/" * 3000,
        "restmq.css/x",
    ):
        assert instance.http("GET", f"/static/{path}")[0] == 404, path
    assert instance.http("POST", "/static/restmq.css")[0] == 405


def test_robots_are_sent_away(instance: Any) -> None:
    assert instance.http("GET", "/robots.txt")[2] == b"User-agent: *\nDisallow: /\n"


# Access

PRODUCER, CONSUMER, ADMIN, NOBODY = "rest:producer", "rest:consumer", "admin", ""
ACCESS = [
    (NOBODY, "GET", "/", ""),
    (NOBODY, "GET", "/queue", ""),
    (NOBODY, "GET", "/static/restmq.css", ""),
    (NOBODY, "GET", "/robots.txt", ""),
    (NOBODY, "GET", "/openapi.json", ""),
    (PRODUCER, "POST", "/q/{}", "value=x"),
    (PRODUCER, "POST", "/", "queue={}&value=x"),
    (PRODUCER, "POST", "/queue", '{"cmd": "add", "queue": "{}", "value": "x"}'),
    (CONSUMER, "GET", "/q/{}", ""),
    (CONSUMER, "HEAD", "/q/{}", ""),
    (CONSUMER, "GET", "/?queue={}", ""),
    (CONSUMER, "GET", "/?%71ueue={}", ""),
    (CONSUMER, "GET", "/?a=b&q%75eue={}", ""),
    (CONSUMER, "POST", "/q/{}/take", ""),
    (CONSUMER, "DELETE", "/q/{}/1", ""),
    (CONSUMER, "POST", "/queue", '{"cmd": "get", "queue": "{}"}'),
    (CONSUMER, "POST", "/queue", '{"cmd": "take", "queue": "{}"}'),
    (CONSUMER, "POST", "/queue", '{"cmd": "del", "queue": "{}", "key": "{}:1"}'),
    (CONSUMER, "GET", "/p/{}", ""),
    (CONSUMER, "GET", "/control/{}", ""),
    (CONSUMER, "GET", "/control/", ""),
    (CONSUMER, "GET", "/stats/{}", ""),
    (CONSUMER, "GET", "/stats/", ""),
    (CONSUMER, "GET", "/q/", ""),
    (CONSUMER, "GET", "/j/{}", ""),
    (ADMIN, "DELETE", "/q/{}", ""),
    (ADMIN, "DELETE", "/q/{}?forget=1", ""),
    (ADMIN, "POST", "/p/{}", "policy=roundrobin"),
    (ADMIN, "POST", "/control/{}", "status=stop"),
]


def test_each_request_needs_its_section_and_no_other(start: Any, queue: str) -> None:
    names = (PRODUCER, CONSUMER, ADMIN)
    one = start("".join(f"[{name}]\nusername = {name[:4]}{name[-4:]}\npassword = p\n" for name in names))
    for section, method, path, body in ACCESS:
        for shown in (NOBODY, PRODUCER, CONSUMER, ADMIN):
            word = base64.b64encode(f"{shown[:4]}{shown[-4:]}:p".encode()).decode()
            headers = {**FORM, "Authorization": f"Basic {word}"} if shown else FORM
            status = one.http(method, path.replace("{}", queue), body.replace("{}", queue) or None, headers)[0]
            wanted = section in (NOBODY, shown)
            assert (status != 401, status < 500) == (wanted, True), (section, shown, method, path, status)


def test_a_route_without_a_section_is_one_that_shows_no_queue() -> None:
    open_routes = set()
    for pattern, handler in ROUTES:
        if issubclass(handler, Handler):
            asked = [method for method in handler.verbs if method not in handler.sections and method != "HEAD"]
            assert ("HEAD" in handler.sections) == ("HEAD" in handler.verbs and "GET" in handler.sections)
            open_routes |= {(method, pattern) for method in asked}
    assert open_routes == {
        ("GET", r"/"),  # with `queue` it asks for rest:consumer, as the test above shows
        ("GET", r"/queue"),
        ("POST", r"/queue"),  # asks for the section of its command
        ("GET", r"/healthz"),
        ("GET", r"/readyz"),
        ("GET", r"/robots\.txt"),
        ("GET", r"/openapi\.json"),
        ("GET", r"/static/(.+)"),
    }


def test_another_origin_s_page_may_look_at_no_queue(instance: Any, queue: str) -> None:
    foreign = {"Origin": "http://evil.example", "Sec-Fetch-Site": "cross-site", **FORM}
    for _, method, path, body in ACCESS:
        if path.startswith(("/static", "/robots")):
            continue
        asked = method, path.replace("{}", queue), body.replace("{}", queue) or None
        assert instance.http(*asked, foreign)[0] == 403, asked
    visit = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert [instance.http("GET", path, None, visit)[0] for path in ("/", "/queue", f"/j/{queue}")] == [200] * 3
    assert [instance.http("GET", path, None, visit)[0] for path in (f"/q/{queue}", f"/?queue={queue}")] == [403] * 2
