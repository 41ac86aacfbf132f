"""Bad input at every entrance: its named error, and what stands beside it is untouched."""

from __future__ import annotations

import gzip
import json
import re
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest

from tests.support.patience import PATIENCE
from tests.support.requests import stats
from tests.support.websocket import Talker

MIB = 1 << 20
FORM = "application/x-www-form-urlencoded"
JSON = "application/json"
TEXT = "text/plain"
BATCH = "application/x-ndjson"
PARTS = "multipart/form-data; boundary=X"
ELEMENTS = ["one", "two", "three"]


def part(*fields: tuple[str, bytes]) -> bytes:
    """A multipart form."""
    return b"".join(
        b'--X\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n' % (name.encode(), value)
        for name, value in fields
    ) + b"--X--\r\n"  # fmt: skip


def request(method: str, target: str, body: bytes = b"", kind: str | None = None, *lines: str) -> bytes:
    """A request as it goes over the wire."""
    head = [f"{method} {target} HTTP/1.1", "Host: localhost", *lines]
    if kind is not None:
        head.append(f"Content-Type: {kind}")
    if body or method == "POST":
        head.append(f"Content-Length: {len(body)}")
    return "\r\n".join(head).encode("utf-8") + b"\r\n\r\n" + body


def answers(link: socket.socket, count: int) -> list[tuple[int, bytes, bytes]]:
    """So many answers of a connection: status, type and body. HEAD is not among what is asked."""
    found: list[tuple[int, bytes, bytes]] = []
    data = b""
    while len(found) < count:
        head, gap, rest = data.partition(b"\r\n\r\n")
        if gap:
            fields = {line.partition(b": ")[0].lower(): line.partition(b": ")[2] for line in head.split(b"\r\n")[1:]}
            size = int(fields.get(b"content-length", b"0"))
            if len(rest) >= size:
                found.append((int(head.split(b" ")[1]), fields.get(b"content-type", b""), rest[:size]))
                data = rest[size:]
                continue
        more = link.recv(1 << 16)
        assert more, f"closed after {found} and {data[:300]!r}"
        data += more
    return found


def held(instance: Any, queue: str) -> dict[str, Any]:
    """What /stats says that is no rate: those come with the second look, a second later."""
    return {name: value for name, value in stats(instance, queue).items() if not name.endswith("_rate")}


@pytest.fixture
def filled(instance: Any, queue: str) -> Iterator[str]:
    """A queue with three elements, which are as they were when the test is over."""
    for value in ELEMENTS:
        instance.form(f"/q/{queue}", f"value={value}")
    before = held(instance, queue)
    yield queue
    assert held(instance, queue) == before
    for number, value in enumerate(ELEMENTS, 1):
        wanted = {"count": 0, "key": f"{queue}:{number}", "value": value}
        assert json.loads(instance.http("GET", f"/q/{queue}")[2]) == wanted
    assert instance.http("GET", f"/q/{queue}")[0] == 204


def refused(instance: Any, filled: str, bad: bytes, status: int, word: str) -> bytes:
    """Send it between two good requests, pipelined, then another; answers the error's text."""
    good = request("GET", f"/stats/{filled}")
    head, gap, body = bad.replace(b"{}", filled.encode()).partition(b"\r\n\r\n")
    bad = re.sub(rb"Content-Length: \d+", b"Content-Length: %d" % len(body), head) + gap + body
    with socket.create_connection(("127.0.0.1", instance.port), timeout=PATIENCE) as link:
        link.sendall(good + bad + good)
        before, wrong, behind = answers(link, 3)
        assert (before[0], behind[0]) == (200, 200)
        assert wrong[:2] == (status, b"application/problem+json"), wrong
        problem = json.loads(wrong[2])
        assert (problem["type"], problem["status"]) == ("urn:restmq:" + word, status)
        link.sendall(good)
        assert answers(link, 1)[0][0] == 200
        text: str = problem["error"]
        return text.encode("utf-8")


BIG = b"a" * (MIB + 1)
FAT = b"x=" + b"a" * (3 * MIB + (64 << 10))  # over the limit of a form
MANY = b"&".join(b"f%d=1" % n for n in range(101))
OPTIONS = [  # (what follows the target, header lines, part of the text)
    ("?leese=5", (), "leese"),
    ("?Callback=f", (), "Callback"),
    ("?%ff=1", (), "not known"),
    ("", ("RestMQ-Leese: 5",), "RestMQ-leese"),
    ("?" + "&".join(f"_={n}" for n in range(101)), (), "more than 100"),
]
#: Statuses with their words, for those that come often.
UNUSABLE, AHEAD = (406, "not-acceptable"), (503, "prefetch")
UNMET, UNREAD = (412, "precondition-failed"), (415, "unsupported-media-type")
BAD: list[tuple[bytes, int, str]] = [
    # REST: a form
    (request("POST", "/q/{}", b"", FORM), 400, "bad-value"),
    (request("POST", "/q/{}", b"other=1", FORM), 400, "bad-value"),
    (request("POST", "/q/{}", b"value=%ff", FORM), 400, "bad-value"),
    (request("POST", "/q/{}", b"value=\xc3", FORM), 400, "bad-value"),
    (request("POST", "/q/{}", b"value=%ED%A0%80", FORM), 400, "bad-value"),  # a lone surrogate
    (request("POST", "/q/{}", b"value=a&value=b", FORM), 400, "bad-request"),
    (request("POST", "/q/{}", b"msg=a&v=1&msg=a", FORM), 400, "bad-request"),
    (request("POST", "/q/{}", b"value=a&v%61lue=b", FORM), 400, "bad-request"),
    (request("POST", "/q/{}?value=a&value=b", b"", FORM), 400, "bad-request"),
    (request("POST", "/q/{}", b"value=a&" + MANY, FORM), 400, "bad-request"),
    (request("POST", "/q/{}", b"value=" + BIG, FORM), 413, "too-large"),
    (request("POST", "/q/{}", b"value=" + b"%61" * (MIB + 1), FORM), 413, "too-large"),
    (request("POST", "/q/{}", b"value=a&" + FAT, FORM), 413, "too-large"),
    # REST: multipart
    (request("POST", "/q/{}", part(("other", b"x")), PARTS), 400, "bad-value"),
    (request("POST", "/q/{}", part(("value", b"\xff")), PARTS), 400, "bad-value"),
    (request("POST", "/q/{}", part(("value", b"a"), ("value", b"b")), PARTS), 400, "bad-request"),
    (request("POST", "/q/{}", part(("value", BIG)), PARTS), 413, "too-large"),
    (request("POST", "/q/{}", part(("value", b"a"), ("x", FAT)), PARTS), 413, "too-large"),
    (request("POST", "/q/{}", part(("value", b"a"), ("ttl", b"0")), PARTS), 400, "bad-option"),
    (request("POST", "/q/{}", part(("value", b"a"))[:-6], PARTS), 400, "bad-request"),
    (request("POST", "/q/{}", part(("value", b"a")), "multipart/form-data"), 400, "bad-request"),
    (request("POST", "/q/{}", b"--X\r\n\r\na\r\n--X--\r\n", PARTS), 400, "bad-request"),
    (request("POST", "/q/{}", part(*[("f", b"1")] * 101), PARTS), 400, "bad-request"),
    # REST: the body itself
    (request("POST", "/q/{}", b"hello"), 400, "bad-value"),
    (request("POST", "/q/{}", b"hello", ""), 400, "bad-value"),
    (request("POST", "/q/{}"), 400, "bad-value"),
    (request("POST", "/q/{}", b"\xff", TEXT), 400, "bad-value"),
    (request("POST", "/q/{}", b"ab\xed\xb0\x80", "application/json"), 400, "bad-value"),
    (request("POST", "/q/{}", BIG, TEXT), 413, "too-large"),
    (request("POST", "/q/{}?ttl=0", b"x", TEXT), 400, "bad-option"),
    (request("POST", "/q/{}?ttl=1&ttl=2", b"x", TEXT), 400, "bad-option"),
    (request("POST", "/q/{}", b"value=x&ttl=1&ttl=1", FORM), 400, "bad-option"),
    (request("POST", "/q/{}", b"x", TEXT, "RestMQ-TTL: 1", "RestMQ-TTL: 2"), 400, "bad-option"),
    (request("POST", "/q/{}", b"x", TEXT, "RestMQ-TTL: \xff"), 400, "bad-option"),
    (request("POST", "/q/{}?ttl=%ff", b"x", TEXT), 400, "bad-option"),
    (request("POST", "/q/{}?delay=-1", b"x", TEXT), 400, "bad-option"),
    (request("POST", "/q/{}", b"value=x&delay=400d", FORM), 400, "bad-option"),
    (request("POST", "/q/{}", b"x", TEXT, "RestMQ-Delay: soon"), 400, "bad-option"),
    (request("POST", "/q/{}", b"x", TEXT, "Idempotency-Key: a b"), 400, "bad-option"),
    (request("POST", "/q/{}", b"x", TEXT, "Idempotency-Key:"), 400, "bad-option"),
    (request("POST", "/q/{}", b"x", TEXT, "Idempotency-Key: a", "Idempotency-Key: a"), 400, "bad-option"),
    # REST: a batch
    (request("POST", "/q/{}", b"", BATCH), 400, "bad-value"),
    (request("POST", "/q/{}", b"\r\n\n", BATCH), 400, "bad-value"),
    (request("POST", "/q/{}", b"a\n\xff", BATCH), 400, "bad-value"),
    (request("POST", "/q/{}", b"a\n" + BIG, BATCH), 413, "too-large"),
    (request("POST", "/q/{}", b"a\n" * 10_001, BATCH), 413, "too-large"),
    (request("POST", "/q/{}?ttl=0", b"a", BATCH), 400, "bad-option"),
    (request("POST", "/q/{}?max=5", b"a", BATCH), 400, "bad-option"),
    # GET and take
    *((request(method, target.replace("?", f"?{query}&")), 400, "bad-option")
      for method, target in (("GET", "/q/{}?"), ("POST", "/q/{}/take?"), ("GET", "/?queue={}"))
      for query in ("wait=61", "wait=x", "max=0", "max=1001", "max=x", "lease=0", "lease=25h", "lease=x", "delay=5",
                    "lease=5&lease=5", "wait=%ff")),
    # one element
    (request("GET", "/q/{}/0"), 400, "bad-key"),
    (request("GET", "/q/{}/9"), 404, "not-found"),
    (request("GET", "/q/{}/1?lease=5"), 400, "bad-option"),
    (request("POST", "/q/{}/1"), 400, "bad-option"),
    (request("POST", "/q/{}/1?lease=x"), 400, "bad-option"),
    (request("POST", "/q/{}/1?lease=5"), 412, "lease-lost"),
    (request("POST", "/q/{}/9?lease=5"), 404, "not-found"),
    (request("POST", "/q/{}/1?lease=0&delay=-1"), 400, "bad-option"),
    (request("POST", "/q/{}/1", b"lease=0&lease=0", FORM), 400, "bad-option"),
    *((request(method, f"/q/{{}}/1{query}", b"", None, f"If-Match: {given}"), status, word)
      for method, query in (("DELETE", ""), ("POST", "?lease=5"))
      for given, status, word in (
          ("*", 400, "bad-key"), ('W/"1.1@x"', 400, "bad-key"), ('"1.1@x", "1.2@x"', 400, "bad-key"),
          ("1.1", 400, "bad-key"), ('"1.1@x"', 412, "lease-lost"), ('"2.1@x"', 412, "lease-lost"))),
    # many leases
    *((request("POST", "/q/{}/ack", text, kind), status, word)
      for text, status, word in (
          (b"", 400, "bad-request"), (b"[", 400, "bad-request"), (b"[]", 400, "bad-request"),
          (b'{"a": "\xff"}', 400, "bad-request"), (b'{"ack": 5}', 400, "bad-request"),
          (b'{"ack": ["x"]}', 400, "bad-key"),
          (b'{"nack": [{"lease": "1.1@x", "delay": "x"}]}', 400, "bad-option"),
          (b'{"ack": ["1.1@x"' + b', "1.1@x"' * 1000 + b"]}", 413, "too-large"))
      for kind in ("application/json", FORM, None)),
    (request("GET", "/q/{}/ack"), 405, "method-not-allowed"),
    # POST /
    (request("POST", "/", b"value=x", FORM), 400, "bad-request"),
    (request("POST", "/", b"queue={}&value=x&delay=x", FORM), 400, "bad-option"),
    (request("POST", "/", b"queue={}&value=x", FORM, "Idempotency-Key: a\tb"), 400, "bad-option"),
    (request("POST", "/", b"queue=&value=x", FORM), 400, "bad-request"),
    (request("POST", "/", b"queue={}", FORM), 400, "bad-value"),
    (request("POST", "/", b"queue={}&queue={}&value=x", FORM), 400, "bad-request"),
    (request("POST", "/", b"queue={}&value=%ff", FORM), 400, "bad-value"),
    (request("POST", "/", b"queue={}&value=" + BIG, FORM), 413, "too-large"),
    (request("POST", "/", b"queue={}&value=x&ttl=x", FORM), 400, "bad-option"),
    (request("POST", "/?tll=5", b"queue={}&value=x", FORM), 400, "bad-option"),
    (request("POST", "/?queue={}", b"hello"), 400, "bad-value"),
    # GET /
    (request("GET", "/?queue=&_=1"), 400, "bad-name"),
    (request("GET", "/?queue={}&queue={}"), 400, "bad-request"),
    (request("GET", "/?queue={}&leese=5"), 400, "bad-option"),
    (request("GET", "/?queue={}&callback=a-b"), 400, "bad-option"),
    # DELETE by key
    (request("DELETE", "/q/{}/0"), 400, "bad-key"),
    (request("DELETE", "/q/{}/01"), 400, "bad-key"),
    (request("DELETE", "/q/{}/" + "1" * 17), 400, "bad-key"),
    (request("DELETE", "/q/{}/x"), 404, "not-found"),
    (request("DELETE", "/q/{}/-1"), 404, "not-found"),
    (request("DELETE", "/q/{}/%31"), 404, "not-found"),
    (request("DELETE", "/q/{}?forget=yes"), 400, "bad-option"),
    (request("DELETE", "/q/{}?forget=1&forget=0"), 400, "bad-option"),
    (request("DELETE", "/q/{}?forgte=1"), 400, "bad-option"),
    (request("DELETE", "/q/{}", b"", None, "RestMQ-Forgte: 1"), 400, "bad-option"),
    # policy and control
    (request("POST", "/p/{}", b"policy=random", FORM), 400, "bad-option"),
    (request("POST", "/p/{}", b"", FORM), 400, "bad-option"),
    (request("POST", "/p/{}", b"policy=roundrobin&policy=broadcast", FORM), 400, "bad-request"),
    (request("POST", "/p/{}", b"policy=roundrobin", TEXT), *UNREAD),
    (request("POST", "/control/{}", b"status=pause", FORM), 400, "bad-option"),
    (request("POST", "/control/{}", b"status=stop&status=start", FORM), 400, "bad-request"),
    (request("POST", "/control/", b"status=stop", FORM), 405, "method-not-allowed"),
    # listings
    *((request("GET", f"{path}?{query}"), 400, "bad-option")
      for path in ("/stats/", "/control/")
      for query in ("max=0", "max=1001", "max=x", "max=1&max=2", "match=%ff", "after=%ff", "mach=x")),
    # the JSON protocol: what is no object
    *((request("POST", "/queue", text, kind), 400, "bad-request")
      for text in (b"{", b"[]", b'"x"', b"", b'{"a": "\xff"}', b'{"a": NaN}', b"{" * 5000)
      for kind in ("application/json", TEXT, None)),
    (request("POST", "/queue", b"body=%7B", FORM), 400, "bad-request"),
    (request("POST", "/queue", b"other=1", FORM), 400, "bad-request"),
    (request("POST", "/queue", b'body={"cmd": "take", "queue": "{}"}&lease=30s', FORM), 400, "bad-option"),
    (request("POST", "/queue", b"body={}&body={}", FORM), 400, "bad-request"),
    (request("POST", "/queue?lease=5", b'{"cmd": "take", "queue": "{}"}', FORM), 400, "bad-option"),
    (request("POST", "/queue?callback=a-b", b'{"cmd": "take", "queue": "{}"}', FORM), 400, "bad-option"),
    (request("POST", "/queue", b'{"cmd": "add", "queue": "{}", "value": "' + BIG + b'"}', FORM), 413, "too-large"),
    (request("POST", "/queue", b"{" + b" " * len(FAT) + b"}", FORM), 413, "too-large"),
    # methods and paths
    (request("PUT", "/q/{}", b"x", TEXT), 405, "method-not-allowed"),
    (request("DELETE", "/p/{}"), 405, "method-not-allowed"),
    (request("GET", "/q/{}/take"), 405, "method-not-allowed"),
    (request("GET", "/q/{}/1/2"), 404, "not-found"),
    (request("GET", "/q/{}/"), 404, "not-found"),
    # options of a body, where the first RestMQ had no address
    *((request("POST", f"/q/{{}}{path}", body, kind), 400, "bad-option")
      for path, body, kind in (
          ("/take", b"leese=30s", FORM), ("/take", b'{"leese": "30s"}', JSON), ("/take", b'{"lease": 0}', FORM),
          ("/take", part(("leese", b"30s")), PARTS), ("/take", b'{"max": true}', JSON),
          ("/take", b'{"max": [1]}', JSON),
          ("/take", b'{"lease": {"a": 1}}', JSON), ("/take?ttl=5", b"", None), ("/take?value=x", b"", None),
          ("/1", b"leese=30s", FORM), ("/1", b'{"lease": 5, "eror": "x"}', JSON), ("/1?msg=x", b"lease=5", FORM))),
    *((request("POST", path, body, kind), 400, "bad-option")
      for path, body, kind in (
          ("/dead/{}", b"kick=1&kik=2", FORM), ("/dead/{}", b'{"kick": 1, "kik": 2}', JSON),
          ("/p/{}", b'{"policy": "roundrobin", "polcy": 1}', JSON), ("/p/{}", b'{"policy": 1}', JSON),
          ("/control/{}", b'{"status": "stop", "fro": "5s"}', JSON))),
    *((request("GET", "/q/{}", body, kind), 400, "bad-option")
      for body, kind in ((b"leese=5", FORM), (b'{"leese": 5}', JSON), (b'{"lease": null}', FORM))),
    (request("DELETE", "/q/{}", b"forgte=1", FORM), 400, "bad-option"),
    *((request("POST", f"/q/{{}}{path}", text, kind), 400, "bad-request")
      for path in ("/take", "/1")
      for text, kind in ((b"{", FORM), (b"[]", JSON), (b"lease=5", JSON), (b'{"lease": 5, "lease": 6}', JSON),
                         (b"\xef\xbb\xbf{}", JSON), (b'{"lease": NaN}', JSON), (b'{"wait": 1e999}', JSON))),
    *((request(method, path, b"lease=30s", kind), *UNREAD)
      for method, path in (("POST", "/q/{}/take"), ("POST", "/q/{}/1"), ("GET", "/q/{}"), ("POST", "/dead/{}"),
                           ("GET", "/?queue={}"), ("POST", "/control/{}"), ("DELETE", "/q/{}"), ("DELETE", "/q/{}/1"))
      for kind in (TEXT, "application/xml", None)),
    # an option that is empty, such as a variable that was not set
    *((request(method, f"{path}?{word}=", b"", None), 400, "bad-option")
      for method, path in (("GET", "/q/{}"), ("POST", "/q/{}/take"))
      for word in ("lease", "wait", "max")),
    *((request(method, path, body, kind, *lines), 400, "bad-option")
      for method, path, body, kind, lines in (
          ("GET", "/q/{}", b"", None, ("RestMQ-Lease:",)), ("POST", "/q/{}/take", b"lease=", FORM, ()),
          ("POST", "/q/{}/take", b'{"lease": ""}', JSON, ()), ("POST", "/q/{}/take", b'{"lease": null}', JSON, ()),
          ("POST", "/q/{}/take", b"lease", FORM, ()), ("GET", "/?queue={}&lease=", b"", None, ()),
          ("POST", "/q/{}/1", b"lease=", FORM, ()), ("POST", "/q/{}/1", b"lease=0&delay=", FORM, ()),
          ("POST", "/q/{}", b"value=x&delay=", FORM, ()), ("POST", "/control/{}", b"status=stop&for=", FORM, ()),
          ("DELETE", "/q/{}?forget=", b"", None, ()), ("GET", "/c/{}?lease=", b"", None, ()),
          ("GET", "/sse/{}?tap=", b"", None, ()), ("GET", "/c/{}?since=", b"", None, ()))),
    # a client that cannot use what it would be handed
    *((request(method, path, b"", None, line), status, word)
      for method, path in (("GET", "/q/{}"), ("POST", "/q/{}/take"), ("GET", "/?queue={}"), ("GET", "/q/{}?max=2"))
      for line, status, word in (
          ("Purpose: prefetch", *AHEAD), ("Sec-Purpose: prefetch;prerender", *AHEAD),
          ("X-Moz: prefetch", *AHEAD), ("X-Purpose: preview", *AHEAD), ("purpose: Preview", *AHEAD),
          ("Accept: text/event-stream", *UNUSABLE), ("Accept: image/*", *UNUSABLE),
          ("Accept: text/html, text/plain;q=0.5", *UNUSABLE), ("Accept: application/xml", *UNUSABLE),
          ("Accept: */*;q=0", *UNUSABLE), ("Accept: application/json;q=0, */*", *UNUSABLE),
          ("Accept: */*, application/*;q=0.0", *UNUSABLE),
          ("Upgrade: websocket\r\nConnection: Upgrade", 426, "upgrade-required"),
          ("Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: eA==", 426, "upgrade-required"),
          ("Sec-Fetch-Dest: image", *UNUSABLE), ("Sec-Fetch-Dest: script", *UNUSABLE),
          ("Range: bytes=0-5", 400, "bad-request"), ("If-Match: *", *UNMET),
          ("If-None-Match: \"1.1@e\"", *UNMET), ("If-Range: \"x\"", *UNMET),
          ("If-Modified-Since: Sat, 29 Oct 1994 19:43:31 GMT", *UNMET),
          ("If-Unmodified-Since: Sat, 29 Oct 1994 19:43:31 GMT", *UNMET))),
    *((request("POST", path, body, kind, line), status, word)
      for path, body, kind in (("/q/{}/1", b"lease=5", FORM), ("/queue", b'{"cmd": "take", "queue": "{}"}', JSON))
      for line, status, word in (("Purpose: prefetch", *AHEAD), ("Accept: image/*", *UNUSABLE),
                                 ("Upgrade: WebSocket", 426, "upgrade-required"))),
    *((request("GET", path, b"", None, line), status, word)
      for path, line, status, word in (
          ("/q/{}?callback=f", "Accept: image/*", *UNUSABLE),
          ("/c/{}", "Accept: text/event-stream", *UNUSABLE), ("/c/{}", "Accept: text/html", *UNUSABLE),
          ("/sse/{}", "Accept: application/json", *UNUSABLE), ("/sse/{}", "Purpose: prefetch", *AHEAD),
          ("/c/{}", "Upgrade: websocket", 426, "upgrade-required"), ("/sse/{}", "If-Match: *", *UNMET))),
    # a precondition that nobody looks at, where something would change
    *((request(method, path, body, kind, line), *UNMET)
      for method, path, body, kind in (
          ("DELETE", "/q/{}", b"", None), ("POST", "/q/{}", b"value=x", FORM), ("POST", "/q/{}", b"x", TEXT),
          ("POST", "/", b"queue={}&value=x", FORM), ("POST", "/q/{}/ack", b'{"ack": ["1.1@e"]}', JSON),
          ("POST", "/queue", b'{"cmd": "take", "queue": "{}"}', JSON), ("POST", "/p/{}", b"policy=roundrobin", FORM),
          ("POST", "/control/{}", b"status=stop", FORM), ("POST", "/settings/{}", b"history=1", FORM),
          ("POST", "/dead/{}", b"kick=1", FORM), ("DELETE", "/dead/{}", b"", None))
      for line in ("If-Match: \"1.1@e\"", "If-Match: *", "If-None-Match: *", "If-Unmodified-Since: x",
                   "If-Modified-Since: x", "If-Range: \"x\"")),
    *((request(method, "/q/{}/1", body, kind, line), *UNMET)
      for method, body, kind in (("POST", b"lease=5", FORM), ("DELETE", b"", None))
      for line in ("If-None-Match: *", "If-Unmodified-Since: Sat, 29 Oct 1994 19:43:31 GMT", "If-Range: \"x\"")),
    *((request("GET", path, b"", None, "If-Match: \"x\""), *UNMET)
      for path in ("/q/{}/1", "/stats/{}", "/ledger/{}", "/p/{}", "/j/{}", "/healthz")),
    # text and codings that are not read here
    *((request("POST", path, body, f"{kind}; charset={charset}"), *UNREAD)
      for path, body, kind in (("/q/{}", b"x", TEXT), ("/q/{}", b"{}", JSON), ("/q/{}", b"value=x", FORM),
                               ("/q/{}", b"a\nb", BATCH), ("/q/{}/take", b"lease=5", FORM),
                               ("/", b"queue={}&value=x", FORM), ("/q/{}/ack", b'{"ack": []}', JSON),
                               ("/queue", b'{"cmd": "take", "queue": "{}"}', JSON),
                               ("/settings/{}", b"history=1", FORM), ("/p/{}", b"policy=roundrobin", FORM))
      for charset in ("utf-16le", "ISO-8859-1", '"Latin1"', '"' + " " * 90 + 'utf-16"', "utf-8; charset=utf-16")),
    (request("POST", "/q/{}", b"value=x&_charset_=windows-1252", FORM), *UNREAD),
    (request("POST", "/q/{}", part(("value", b"x"), ("_charset_", b"latin1")), PARTS), *UNREAD),
    *((request("POST", "/q/{}", part(("value", b"x")).replace(b"\r\n\r\n", line + b"\r\n\r\n"), PARTS), *UNREAD)
      for line in (b"\r\nContent-Type: text/plain; Charset=UTF-16", b"\r\nContent-Encoding: gzip")),
    *((request("POST", path, b"x", TEXT, f"Content-Encoding: {coding}"), *UNREAD)
      for path in ("/q/{}", "/q/{}/take", "/q/{}/ack", "/queue", "/p/{}", "/settings/{}", "/dead/{}", "/q/{}/1")
      for coding in ("br", "deflate", "gzip, gzip", "gzip, br", "compress", "zstd", "x")),
    *((request("POST", "/q/{}", body, TEXT, "Content-Encoding: gzip"), 400, "bad-request")
      for body in (b"", b"x", gzip.compress(b"x")[:-1], gzip.compress(b"x")[:5], gzip.compress(b"x") + b"rest",
                   gzip.compress(b"x")[:-8] + b"12345678", gzip.compress(b"") * 1001)),
    (request("POST", "/q/{}", gzip.compress(BIG), TEXT, "Content-Encoding: gzip"), 413, "too-large"),
    (request("POST", "/settings/{}", gzip.compress(b"x=" + BIG), FORM, "Content-Encoding: gzip"), 413, "too-large"),
    # an Idempotency-Key that is a string of a structured field, and is none
    *((request("POST", "/q/{}", b"value=x", FORM, f"Idempotency-Key: {key}"), 400, "bad-option")
      for key in ('"', '""', '"k', '"k"x', '"k\\n"', '"two words"', '"a", "b"')),
    # live consumers
    *((request("GET", f"/{kind}/{names}"), 400, "bad-name")
      for kind in ("c", "sse")
      for names in ("{},", ",{}", "{},,x", "{},{}", "{},a%2Cb", ",".join(f"n{n}" for n in range(101)))),
    *((request("GET", f"/{kind}/{{}}?{query}"), 400, "bad-option")
      for kind in ("c", "sse")
      for query in ("leese=5", "callback=f", "c%61llback=f")),
    (request("GET", "/ws/{}"), 426, "upgrade-required"),
]  # fmt: skip


@pytest.mark.parametrize(("bad", "status", "word"), BAD, ids=[str(n) for n in range(len(BAD))])
def test_bad_input_gets_its_error_and_touches_nothing_beside_it(
    instance: Any, filled: str, bad: bytes, status: int, word: str
) -> None:
    assert refused(instance, filled, bad, status, word)


@pytest.mark.parametrize(("after", "lines", "said"), OPTIONS)
def test_an_option_that_is_not_known_is_refused_at_every_route(
    instance: Any, filled: str, after: str, lines: tuple[str, ...], said: str
) -> None:
    word = "bad-request" if "100" in said else "bad-option"
    for method, target, body, kind in [
        ("POST", "/q/{}", b"value=x", FORM),
        ("POST", "/q/{}", b"x", TEXT),
        ("GET", "/q/{}", b"", None),
        ("POST", "/q/{}", b"a\nb", BATCH),
        ("POST", "/q/{}/take", b"", None),
        ("GET", "/q/{}/1", b"", None),
        ("POST", "/q/{}/1", b"lease=5", FORM),
        ("POST", "/q/{}/ack", b'{"ack": ["1.1@x"]}', None),
        ("DELETE", "/q/{}/1", b"", None),
        ("DELETE", "/q/{}", b"", None),
        ("POST", "/", b"queue={}&value=x", FORM),
        ("POST", "/queue", b'{"cmd": "take", "queue": "{}"}', FORM),
        ("GET", "/c/{}", b"", None),
        ("GET", "/sse/{}", b"", None),
        ("GET", "/p/{}", b"", None),
        ("POST", "/p/{}", b"policy=roundrobin", FORM),
        ("GET", "/control/{}", b"", None),
        ("POST", "/control/{}", b"status=stop", FORM),
        ("GET", "/control/", b"", None),
        ("GET", "/stats/{}", b"", None),
        ("GET", "/stats/", b"", None),
    ]:
        text = refused(instance, filled, request(method, target + after, body, kind, *lines), 400, word)
        assert said.encode() in text, (method, target)


@pytest.mark.parametrize(
    "callback", ["", "alert(1)", "a-b", "a..b", ".a", "a.", "1a", "a b", "é", "a" * 65, "a\n", "[0]"]
)
def test_a_callback_that_is_no_name_is_refused_before_anything_is_done(
    instance: Any, filled: str, callback: str
) -> None:
    query = "?callback=" + quote(callback)
    for bad in [
        request("GET", "/q/{}" + query),
        request("POST", "/q/{}/take" + query),
        request("DELETE", "/q/{}" + query),
        request("DELETE", "/q/{}/1" + query),
        request("GET", "/q/{}/1" + query),
        request("GET", "/q/{}" + query + "&lease=5"),
        request("POST", "/q/{}/take" + query + "&max=2"),
        request("POST", "/q/{}/1" + query + "&lease=5"),
        request("POST", "/q/{}/ack" + query, b'{"ack": ["1.1@x"]}'),
        request("GET", "/?queue={}&" + query[1:]),
        request("POST", "/queue" + query, b'{"cmd": "take", "queue": "{}"}', FORM),
        request("GET", "/p/{}" + query),
        request("GET", "/control/{}" + query),
        request("POST", "/control/{}" + query, b"status=stop", FORM),
        request("GET", "/stats/{}" + query),
        request("GET", "/stats/" + query),
    ]:
        refused(instance, filled, bad, 400, "bad-option")


def test_a_callback_is_the_same_however_its_name_is_escaped(instance: Any, filled: str) -> None:
    refused(instance, filled, request("GET", "/q/{}?c%61llback=a-b"), 400, "bad-option")
    for live in ("c", "sse"):
        refused(instance, filled, request("GET", f"/{live}/{{}}?callback="), 400, "bad-option")
    status, _, body = instance.http("GET", f"/stats/{filled}?c%61llback=show")
    assert status == 200 and body.startswith(b"show(")


# Names: one rule at every entrance

NAMES = [*(f"a{c}b" for c in '/,{}"<>\\ \0\x1f\x7f\x85\n'), "", ".", "..", "é" * 128]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_bad_name_is_refused_at_every_entrance(instance: Any, filled: str, name: str) -> None:
    escaped = quote(name, safe="")
    field = escaped.encode()
    bad = [request("GET", f"/?queue={escaped}")]
    if name:
        bad.append(request("POST", "/", b"value=x&queue=" + field, FORM))
        bad.append(request("POST", "/", part(("queue", name.encode()), ("value", b"x")), PARTS))
        for target in ("/q/", "/c/", "/sse/", "/p/", "/control/", "/stats/", "/j/"):
            bad.append(request("GET", target + escaped))
        bad.append(request("POST", f"/q/{escaped}", b"value=x", FORM))
        bad.append(request("POST", f"/q/{escaped}/take"))
        bad.append(request("DELETE", f"/q/{escaped}"))
        bad.append(request("DELETE", f"/q/{escaped}/1"))
        bad.append(request("GET", f"/q/{escaped}/1"))
        bad.append(request("POST", f"/q/{escaped}/1?lease=5"))
        bad.append(request("POST", f"/q/{escaped}/ack", b'{"ack": ["1.1@x"]}'))
        bad.append(request("POST", f"/q/{escaped}", b"a\nb", BATCH))
        bad.append(request("GET", f"/q/{escaped}?lease=5&max=2&wait=5"))
        bad.append(request("POST", f"/p/{escaped}", b"policy=roundrobin", FORM))
        bad.append(request("POST", f"/control/{escaped}", b"status=stop", FORM))
        bad.append(request("GET", f"/c/{filled},{escaped}"))
        bad.append(request("GET", f"/sse/{escaped},{filled}"))
    for one in bad:
        refused(instance, filled, one, 400, "bad-name")
    command = json.dumps({"cmd": "add", "queue": name, "value": "x"})
    for body, kind in ((command, "application/json"), ("body=" + quote(command), FORM)):
        status, _, answer = instance.http("POST", "/queue", body, {"Content-Type": kind})
        assert (status, list(json.loads(answer))) == (200, ["error"])
        assert b"queue name" in answer


def test_a_name_that_is_no_utf8_is_refused_at_every_entrance(instance: Any, filled: str) -> None:
    for target in ("/q/", "/c/", "/sse/", "/p/", "/control/", "/stats/", "/j/", "/?queue="):
        for name in ("%ff", "%ed%a0%80", "a%c3"):
            refused(instance, filled, request("GET", target + name), 400, "bad-name")
    refused(instance, filled, request("POST", "/", b"queue=%ff&value=x", FORM), 400, "bad-name")


# JSON commands: by form, as the body, on a WebSocket

COMMANDS = [
    '"cmd": "nothing", "queue": "{}"',
    '"cmd": "take"',
    '"cmd": "take", "queue": 1',
    '"cmd": "take", "queue": null',
    '"cmd": "take", "queue": "{}\\ud800"',
    '"cmd": "take", "queue": "{}", "leese": 5',
    '"cmd": "add", "queue": "{}"',
    '"cmd": "add", "queue": "{}", "value": "\\ud800"',
    '"cmd": "add", "queue": "{}", "value": "\\udc00\\ud800"',
    '"cmd": "add", "queue": "{}", "value": "x", "ttl": -1',
    '"cmd": "add", "queue": "{}", "value": "x", "ttl": "1w"',
    '"cmd": "add", "queue": "{}", "value": "x", "ttl": []',
    '"cmd": "add", "queue": "{}", "value": "x", "id": 1e999',
    '"cmd": "add", "queue": "{}", "value": "x", "value": "y"',
    '"cmd": "take", "queue": "{}", "queue": "{}"',
    '"cmd": "take", "queue": "{}", "id": {"a": [{"b": 1, "b": 1}]}',
    '"cmd": "take", "queue": "{}", "id": ' + "9" * 400,
    '"cmd": "take", "queue": "{}", "id": "\\udc00"',
    '"cmd": "take", "queue": "{}", "lease": ""',
    '"cmd": "take", "queue": "{}", "lease": null',
    '"cmd": "touch", "queue": "{}", "key": "{}:1", "dead": true',
    '"cmd": "add", "queue": "{}", "value": "x", "at": 5, "delay": 5',
    '"cmd": "del", "queue": "{}"',
    '"cmd": "del", "queue": "{}", "key": "{}"',
    '"cmd": "del", "queue": "{}", "key": "{}:0"',
    '"cmd": "del", "queue": "{}", "key": "{}:1 "',
    '"cmd": "del", "queue": "{}", "key": "other:1"',
    '"cmd": "del", "queue": "{}", "key": "{}:\\ud800"',
    '"cmd": ["take"], "queue": "{}"',
    '"cmd": "add", "queue": "{}", "value": "x", "delay": "x"',
    '"cmd": "add", "queue": "{}", "value": "x", "idempotency_key": "a b"',
    '"cmd": "take", "queue": "{}", "lease": 0',
    '"cmd": "take", "queue": "{}", "wait": 61',
    '"cmd": "del", "queue": "{}", "key": "{}:1", "match": "1.1@x"',
    '"cmd": "del", "queue": "{}", "key": "{}:1", "match": null',
    '"cmd": "touch", "queue": "{}", "key": "{}:1", "lease": 5',
    '"cmd": "touch", "queue": "{}", "key": "{}:9", "lease": 0',
    '"cmd": "touch", "queue": "{}", "key": "{}:1"',
]


@pytest.mark.parametrize("fields", COMMANDS)
def test_a_wrong_command_does_nothing_however_it_came(instance: Any, filled: str, fields: str) -> None:
    command = "{" + fields.replace("{}", filled) + "}"
    field = quote(command)
    for body, kind in ((command, "application/json"), ("body=" + field, FORM), ("msg=" + field, FORM)):
        status, headers, answer = instance.http("POST", "/queue", body, {"Content-Type": kind})
        assert (status, headers["content-type"], list(json.loads(answer))) == (200, "application/json", ["error"])
    with Talker(instance.port, f"/ws/{filled}.other") as ws:
        for text in (command, "{nope", "[]", "", "\ufeff" + command, '{"cmd": NaN}', '{"id": ' + "[" * 5000):
            ws.send(text)
            assert next(iter(json.loads(ws.recv()))) == "error"
        ws.send(f'{{"cmd": "del", "queue": "{filled}", "key": "{filled}:99"}}')
        assert json.loads(ws.recv())["deleted"] is False  # it goes on


def test_names_on_a_websocket_follow_the_rule_too(instance: Any, filled: str) -> None:
    lines = (
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version: 13",
    )
    for names in ("a%2Fb", f"{filled},a%20b", f"{filled},{filled}", "%ff", ",".join(f"n{n}" for n in range(101))):
        refused(instance, filled, request("GET", f"/ws/{names}", b"", None, *lines), 400, "bad-name")
    refused(instance, filled, request("GET", f"/ws/{filled}?leese=5", b"", None, *lines), 400, "bad-option")
    refused(instance, filled, request("GET", f"/ws/{filled}", b"", None, *lines[:3]), 426, "upgrade-required")


def test_what_old_clients_put_into_a_query_passes(instance: Any, queue: str) -> None:
    for target in ("?value=x", "?msg=x&value=y&queue=z&policy=&status=&body=&ttl=1h&_=1&callback=cb"):
        assert instance.http("POST", f"/q/{queue}{target}", None)[0] == 200
        assert json.loads(instance.http("GET", f"/q/{queue}?_=1")[2])["value"] == "x"
    assert instance.http("GET", f"/q/{queue}?value=x")[0] == 400
    assert instance.http("DELETE", f"/q/{queue}?queue=x")[0] == 400
