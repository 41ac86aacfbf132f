"""No pattern and no loop takes longer than in proportion to what a client sends: every one is fed with hostile text.

A pattern that looks from each place of a text to its end takes sixteen times as long for four times as much, at 64 kB
seconds instead of a millisecond. So a test compares the CPU of 16 kB and of 64 kB, the least of several tries, and lets
pass eight times as much.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import itertools
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from twisted.internet.task import Clock
from twisted.logger import LogLevel

from restmq import log
from restmq.access import acl, origin
from restmq.api import commands, values
from restmq.delivery import replay
from restmq.http import accesslog, proxies
from restmq.http import forms as form
from restmq.http import headers as head
from restmq.live.options import queue_names
from restmq.model import element, networks, options, urlencoded
from restmq.model import settings as rules
from restmq.model.errors import Error
from restmq.runtime.ticker import Wheel
from tests import ROOT
from tests.support.exchange import H, talk
from tests.support.patience import until

FEW, MANY = 1 << 13, 1 << 15  # bytes
#: Whatever is read of restmq.conf or of a Redis, and no client's.
NOT_CLIENTS = {"config", "ini", "library", "embedded", "tap", "tls"}
SINGLE = list("aZ0_ \t;:=\"'\\/@%.,-[]{}()&<?#\r\n\0é")


def spent(ask: Callable[[], object]) -> float:
    """The least CPU, in seconds, of three tries."""
    least = 1e9
    for tries in range(3):
        if tries and least < 0.001:  # it is fast, and four times as much may be compared with this
            break
        began = time.process_time()
        with contextlib.suppress(Error, ValueError):  # to be refused must not take long either
            ask()
        least = min(least, time.process_time() - began)
    return least


def linear(ask: Callable[[str], object], pump: str, before: str = "", after: str = "") -> None:
    """Four times as much takes at most eight times as long, give or take what others do to a core's caches."""
    few, many = (before + pump * (size // len(pump)) + after for size in (FEW, MANY))
    least = spent(lambda: ask(few))
    assert least < 0.5, (before, pump, after, least)  # what is not linear would take for ever with more
    most = [spent(lambda: ask(many))]
    while most[-1] > 8 * least + 0.02:  # perhaps something else was done in between
        assert len(most) < 8, (before, pump, after, least, most)
        most.append(spent(lambda: ask(many)))


def modules() -> Iterator[tuple[str, Any]]:
    """Those whose patterns see what a client sends."""
    for path in sorted((ROOT / "restmq").rglob("*.py")):
        if path.stem not in NOT_CLIENTS and path.stem != "__init__":
            name = ".".join(path.relative_to(ROOT / "restmq").with_suffix("").parts)
            yield name, importlib.import_module(f"restmq.{name}")


def patterns() -> dict[str, list[re.Pattern[Any]]]:
    """Every compiled pattern, by module and name."""
    found: dict[str, list[re.Pattern[Any]]] = {}
    for name, module in modules():
        for word, value in vars(module).items():
            listed = value if isinstance(value, list) else [value]
            if listed and all(isinstance(one, re.Pattern) for one in listed):
                found[f"{name}.{word}"] = listed
    return found


PATTERNS = patterns()


def searched() -> set[str]:
    """Those that are looked for at every place of a text: the source has NAME.search(…), .sub(…) and the like."""
    found = {"log._SECRETS"}  # a list, whose loop has another name
    for stem, module in modules():
        for node in ast.walk(ast.parse(Path(module.__file__).read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                name = f"{stem}.{node.value.id}"
                if node.attr in ("search", "sub", "subn", "finditer", "findall", "split") and name in PATTERNS:
                    found.add(name)
    return found


#: Patterns that are searched for in a text. All others begin at a place that is known.
SEARCHED = searched()


def literals(pattern: str) -> list[str]:
    """Words that stand in a pattern: what comes after them is where a bad one goes wrong."""
    plain = re.sub(r"\\[a-zA-Z]", " ", pattern)
    return sorted(set(re.findall(r"[a-z]{4,}(?:://|=)?", plain)) | {"://", '="', "x="})


@pytest.mark.parametrize("name", PATTERNS)
def test_a_pattern_is_linear_whatever_it_meets(name: str) -> None:
    for pattern in PATTERNS[name]:
        text = isinstance(pattern.pattern, str)
        ask = partial(met, pattern, name in SEARCHED)
        words = literals(pattern.pattern if text else pattern.pattern.decode("latin-1"))
        pumps = [*SINGLE, *map("".join, itertools.permutations('a0 ;:="\\/%', 2)), *words]
        pumps += [word + one for word in words for one in 'a ;:="\\']
        for pump in pumps:
            linear(ask, pump, after="!\0")
        for word, one in itertools.product(words, 'a ;="\\'):
            linear(ask, one, before=word)


def met(pattern: re.Pattern[Any], everywhere: bool, text: str) -> None:
    """The pattern at the beginning of a text, or wherever it fits."""
    given: Any = text if isinstance(pattern.pattern, str) else text.encode("latin-1")
    if everywhere:
        pattern.sub(given[:0], given)
    else:
        pattern.match(given)


def test_patterns_that_are_searched_for_are_told_from_those_that_begin_at_a_known_place() -> None:
    assert {"http.parser._BARE_LF", "model.element._FORBIDDEN", "log._SECRETS"} <= SEARCHED <= set(PATTERNS)
    assert "http.parser._HEAD" not in SEARCHED


def event(text: str) -> None:
    """A line of the log."""
    log.line({"log_level": LogLevel.info, "log_time": 0.0, "log_format": "{text}", "text": text})


def request(text: str, *headers: bytes) -> Any:
    """What acl asks of a request."""
    values = dict.fromkeys((b"host", b"origin", b"referer", b"cookie", *headers), text.encode("utf-8"))
    values[b"authorization"] = b"Basic " + text.encode("utf-8")
    fields = SimpleNamespace(values=values)
    path, query = b"/" + text.encode("utf-8"), text.encode("utf-8")
    return SimpleNamespace(
        fields=fields,
        method="GET",
        raw_path=path,
        raw_query=query,
        remote_ip="127.0.0.1",
        peer_ip="127.0.0.1",
        shared=(),
    )


@cache
def access_rules() -> acl.Acl:
    """Rules with a password, hosts and origins."""
    with tempfile.NamedTemporaryFile("w") as file:
        file.write("[websocket:consumer]\nusername = a\npassword = b\n")
        file.flush()
        return acl.Acl(Path(file.name), origins=origin.Origins(["localhost"], ["https://friend.example"]))


def judged(text: str) -> None:
    """Every rule about a page, a host and a password."""
    rules_of, asks = access_rules(), request(text)
    for ask in (
        lambda: rules_of.origins.admit(asks),
        lambda: rules_of.origins._judge_page(b"localhost", asks.fields.values, asks),
        lambda: rules_of.check("websocket:consumer", asks),
        lambda: origin._has(b"callback", text.encode()),
    ):
        with contextlib.suppress(Error):
            ask()


PROXY = proxies.Proxies("X-Forwarded-For", ())
ACCESS = accesslog.AccessLog(Wheel(Clock()), lambda lines: None)
#: Functions that get a client's text, and the words with which a hostile one begins.
ENTRANCES: dict[str, tuple[Callable[[str], object], list[str]]] = {
    "a line of the log": (
        event,
        ["password=", "password", "authorization: basic ", "cookie: ", "auth=", "a://", "a://b:"],
    ),
    "the access log": (lambda text: ACCESS._masked(text.encode()), ["/?", "/?password=", "/?%70assword"]),
    "access": (judged, ["auth=", "http://", "http://a@", "callback", "%63", "["]),
    "a proxy's header": (lambda text: PROXY.client("127.0.0.1", text.encode()), ["127.0.0.1,", "::1, ", "[", "::"]),
    "header lines": (
        lambda text: head.Fields(text.encode("latin-1", "replace"), True),
        [
            "Host: ",
            "Host: a\r\nConnection: ",
            "Host: a\r\nContent-Type: ",
            "Host: a\r\nX: a\r\n",
            "Host: a\r\nExpect: ",
        ],
    ),
    "a query": (lambda text: urlencoded.pairs(text.encode()), ["%", "a=%", "&a="]),
    "a boundary": (
        lambda text: form.multipart(b"multipart/form-data" + text.encode("latin-1", "replace"), b"x"),
        [";boundary=", ';boundary="', ";a=b", '; a="'],
    ),
    "a batch": (lambda text: values.lines(text.encode(), 1000), ["\n", "\r\n", "a\n"]),
    "a queue name": (lambda text: element.queue_name(text.encode()), []),
    "queue names": (lambda text: queue_names(text.encode()), ["a,", "%61"]),
    "a lease": (lambda text: element.parse_lease(text.encode()), ['"1.1@', "1.", "1.1@a"]),
    "a key": (lambda text: element.parse_key(text.encode(), b"q"), ["q:", "q:1"]),
    "where a stream begins": (lambda text: replay.parse(text.encode(), [b"a", b"b"]), ["1@", "0.", "a:1,", "-1"]),
    "a time": (lambda text: options.milliseconds("ttl", text), ["1.", "0", "1m"]),
    "a number": (options.at_most, ["0", "1"]),
    "a key of an add": (lambda text: options.idempotency_key("k", text), ["a"]),
    "a setting": (
        lambda text: rules.checked([(text[:40], text), ("max_bytes", text), ("backoff", text)]),
        ["1", "exp:1:"],
    ),
    "settings in JSON": (
        lambda text: rules.of_json(text.encode()),
        ["{", '{"a":', '{"a":1,', "[", '{"a":1e', '"\\u0041'],
    ),
    "a command": (
        lambda text: commands.parse(text.encode()),
        ["{", '{"a":', '{"cmd":"add","value":', "[", '{"id":[', '{"id":1.'],
    ),
}


@pytest.mark.parametrize("name", ENTRANCES)
def test_whatever_reads_a_client_s_text_is_linear(name: str) -> None:
    ask, words = ENTRANCES[name]
    for pump in [*SINGLE, *words, *(word + one for word in words for one in 'a ;=%"\\')]:
        linear(ask, pump)
    for word, one in itertools.product(words, 'a0 ;=%:"\\'):
        linear(ask, one, before=word)


def test_a_long_chain_of_proxies_is_looked_at_from_its_end_only() -> None:
    looked: list[str] = []
    proxy = proxies.Proxies("X-Forwarded-For", ())

    class Everybody(networks.Networks):
        def __contains__(self, address: str) -> bool:
            looked.append(address)
            return True

    proxy._networks = Everybody(["all"])
    assert proxy.client("127.0.0.1", b"10.0.0.1, " * 1500 + b"10.0.0.2") == "10.0.0.1"
    assert len(looked) <= proxies.HOPS + 1


def test_one_request_tries_few_passwords() -> None:
    cookies = acl._cookies(b"; ".join(b"auth=a:%d" % number for number in range(2000)))
    assert len(cookies) <= 2 * acl.COOKIES


def test_what_a_client_sends_is_cut_in_the_log_and_in_error_texts() -> None:
    text = (
        log.line({"log_level": LogLevel.info, "log_time": 0.0, "log_format": "{text}", "text": "x" * 1_000_000}) or ""
    )
    assert len(text) < log.MOST + 100 and "characters more" in text
    secret = "x" * (log.MOST - 20) + " amqp://jo:" + "s" * 100 + "@host"  # the cut goes through it
    event_of = {"log_level": LogLevel.info, "log_time": 0.0, "log_format": "{text}", "text": secret}
    assert "sss" not in (log.line(event_of) or "")
    assert len(Error("x" * 1_000_000).render()) < 3000


def test_the_access_log_does_not_hold_up_anybody(start: Any) -> None:
    one = start("[server]\naccess_log = yes\n")
    before = cpu(one.process.pid)
    long = f"GET /{'a' * 8000} HTTP/1.1\r\n{H}\r\n".encode() * 60
    assert talk(one.port, [long], answers=60)[0] == [404] * 60
    assert one.http("GET", "/healthz")[0] == 200
    until(lambda: "a" * 8000 in one.log.read_text())
    assert cpu(one.process.pid) - before < 5  # of a pattern that was not linear it took 14


def cpu(pid: int) -> float:
    """Seconds of CPU that a process has used (proc_pid_stat(5), fields 14 and 15)."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / 100
