"""Guesses of passwords: how many are looked at, who is not hindered by them, what is kept, and what is told of them."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import signal
import threading
import time
from collections import Counter
from typing import Any

import pytest
from twisted.internet.task import Clock

from restmq.access import guesses
from restmq.access.guesses import EACH, FIRST, FORGOTTEN, FREE, LONGEST, Guesses
from restmq.model.errors import TooManyGuesses
from tests.support.patience import until
from tests.support.requests import FORM, basic, http_call
from tests.support.websocket import HANDSHAKE

RULES = (
    "[rest:consumer]\nusername = jo\npassword = right\n[rest:producer]\nusername = ann\npassword = other\n"
    "[rest:consumer office]\nusername = kim\npassword = third\n"
)


def looked(counting: Guesses, address: str, name: bytes = b"jo") -> bool:
    """Whether a password is looked at; if it is, it is wrong."""
    try:
        counting.check(address, name)
    except TooManyGuesses:
        return False
    counting.count_wrong(address, name)
    return True


# The rule, by a clock of its own


def test_the_delay_doubles_with_each_wrong_one_up_to_the_longest_and_is_forgotten_later() -> None:
    clock = Clock()
    counting, looks = Guesses(clock), []
    for _ in range(200):  # twenty times a second, what is looked at
        if looked(counting, "10.0.0.7"):
            looks.append(clock.seconds())
        clock.advance(0.05)
    assert looks[:FREE] == pytest.approx([0.05 * number for number in range(FREE)])
    between = [two - one for one, two in zip(looks[FREE - 1 :], looks[FREE:])]
    assert between == pytest.approx([FIRST * 2**number for number in range(len(between))], abs=0.06)
    clock.advance(60)
    for _ in range(5):
        assert looked(counting, "10.0.0.7")
        clock.advance(LONGEST - 0.1)
        assert not looked(counting, "10.0.0.7")
        clock.advance(0.2)
    clock.advance(FORGOTTEN + 1)
    assert [looked(counting, "10.0.0.7") for _ in range(FREE + 1)] == [True] * FREE + [False]


def test_other_addresses_and_other_names_are_not_delayed() -> None:
    counting = Guesses(Clock())
    while looked(counting, "10.0.0.7"):
        pass
    for address, name in (("10.0.0.8", b"jo"), ("10.0.0.7", b"ann"), ("", b"jo"), ("2001:db8::7", b"jo")):
        counting.check(address, name)
    while looked(counting, "2001:db8::7"):
        pass
    assert not looked(counting, "2001:db8::ffff:8")  # of the same /64
    counting.check("2001:db8:0:1::7", b"jo")


def test_what_is_kept_is_bounded_whatever_addresses_and_names_come() -> None:
    counting = Guesses(Clock())
    while looked(counting, "10.0.0.7"):
        pass
    for number in range(10_000):
        looked(counting, "10.0.0.9", b"%d" % number)
        looked(counting, "10.0.0.9", b"x" * number)
    assert not looked(counting, "10.0.0.7")  # many names of one address push nobody else out
    (names,) = (names for network, names in counting._known.items() if network == "10.0.0.9")
    assert len(names) == guesses.NAMES + 1
    assert all(name is None or len(name) <= guesses.LONGEST_NAME for name in names)
    assert not looked(counting, "10.0.0.9", b"a name that is new")
    for number in range(3 * guesses.ADDRESSES):
        looked(counting, f"10.1.{number >> 8}.{number & 255}")
    assert len(counting._known) == guesses.ADDRESSES


def test_who_waits_is_looked_at_in_order_and_no_more_wait_than_may() -> None:
    clock = Clock()
    counting, done = Guesses(clock), []

    def ask(name: str, right: bool) -> bool:
        def again() -> None:
            counting.check("10.0.0.7", b"jo")
            done.append(name)
            if not right:
                counting.count_wrong("10.0.0.7", b"jo")

        with pytest.raises(TooManyGuesses) as refused:
            counting.check("10.0.0.7", b"jo")
        waits = counting.wait(refused.value, again, lambda error: done.append(f"{name} refused"))
        if waits is not None and name == "leaves":
            waits.on_client_left()
        return waits is not None

    while looked(counting, "10.0.0.7"):
        pass
    assert [ask("wrong", False), ask("leaves", True), ask("one", True), ask("two", True)] == [True] * 4
    assert ask("three", True)  # the place of the one that left
    assert [ask("four", True) for _ in range(EACH)] == [False] * EACH
    clock.advance(FIRST)
    assert done == ["wrong"]  # and what it was delays the others
    clock.advance(2 * FIRST)
    assert done == ["wrong", "one", "two", "three"]
    assert not clock.getDelayedCalls() and counting._waiting == 0
    for _ in range(20):  # until the delay is the longest
        looked(counting, "10.0.0.7")
        clock.advance(LONGEST)
    looked(counting, "10.0.0.7")
    done.clear()
    assert [ask(str(number), False) for number in range(EACH)] == [True] * EACH
    clock.pump([LONGEST / 10] * 15)
    assert done == ["0", "1 refused", "2 refused", "3 refused"]  # for these it would have been too long
    assert ask("last", True)
    counting.close()
    assert done[-1] == "last refused" and not ask("after the end", True)


# On the wire


def connection(port: int, source: str = "127.0.0.1") -> Any:
    """One from an address of this machine, closed at the end of a block."""
    return contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60, source_address=(source, 0)))


def ask(port: int, shown: dict[str, str], source: str = "127.0.0.1") -> tuple[int, float]:
    """The status of a request on a connection of its own, and its Retry-After."""
    with connection(port, source) as link:
        link.request("GET", "/stats/", headers=shown)
        reply = link.getresponse()
        reply.read()
        return reply.status, float(reply.getheader("Retry-After") or 0)


def guess(port: int, seconds: float, clients: int = 8) -> Counter[int]:
    """Guess for so many seconds, on so many connections at once; the answers' statuses."""
    found: Counter[int] = Counter()
    end = time.monotonic() + seconds

    def run(me: int) -> None:
        number = 0
        with connection(port) as link:
            while time.monotonic() < end:
                number += 1
                link.request("GET", "/stats/", headers=basic("jo", f"{me}.{number}"))
                reply = link.getresponse()
                reply.read()
                found[reply.status] += 1

    threads = [threading.Thread(target=run, args=(me,)) for me in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def test_few_guesses_are_looked_at_and_nobody_else_is_hindered_meanwhile(start: Any) -> None:
    one = start(RULES)
    kept = http.client.HTTPConnection("127.0.0.1", one.port, timeout=60)

    def on_a_connection_that_showed_it() -> int:
        kept.request("GET", "/stats/", headers=basic("jo", "right"))
        reply = kept.getresponse()
        reply.read()
        return reply.status

    assert on_a_connection_that_showed_it() == 200
    found: list[Counter[int]] = []
    attack = threading.Thread(target=lambda: found.append(guess(one.port, 4)))
    attack.start()
    until(lambda: scrape_refused(one)["not-looked-at"] > 20)
    assert ask(one.port, basic("jo", "right"), "127.0.0.2")[0] == 200  # from another address
    assert ask(one.port, basic("kim", "third"))[0] == 200  # another name
    assert ask(one.port, {})[0] == 401  # without one
    assert on_a_connection_that_showed_it() == 200
    attack.join()
    assert set(found[0]) == {401, 429}
    # Five at once, then after 0.25 s, 0.5 s, 1 s, 2 s, 4 s: those that wait may be answered after the four seconds.
    assert found[0][401] <= FREE + 8, found
    status, after = ask(one.port, basic("jo", "wrong"))
    assert status in (401, 429) and (status == 401 or 1 <= after <= LONGEST)
    kept.close()


def scrape_refused(one: Any) -> dict[str, int]:
    """restmq_refused_total by its reasons."""
    found = http_call(one.port, "GET", "/metrics?max=1", None, basic("kim", "third"))[2].decode()
    return {reason: int(float(n)) for reason, n in re.findall(r'restmq_refused_total{reason="(\S+)"} (\S+)', found)}


def test_a_right_password_after_wrong_ones_waits_and_is_let_in(start: Any) -> None:
    one = start(RULES)
    for number in range(FREE + 2):
        assert ask(one.port, basic("jo", f"{number}"))[0] == 401
    began = time.monotonic()
    assert ask(one.port, basic("jo", "right"))[0] == 200
    assert time.monotonic() - began > FIRST * 2  # it was not looked at before
    for _ in range(5):
        assert ask(one.port, basic("jo", "right"))[0] == 200  # no wrong one came since
    assert scrape_refused(one) == {"wrong-password": FREE + 2, "not-looked-at": 0, "no-password": 0, "forbidden": 0,
                                   "misdirected": 0, "too-many": 0}  # fmt: skip


@pytest.mark.parametrize(
    ("path", "body", "shown"),
    [
        ("/q/a/take", "", {}),
        ("/queue", '{"cmd": "take", "queue": "a"}', {}),
        ("/?queue=a", None, {}),
        ("/c/a", None, {}),
        ("/ws/a", None, {"Origin": "http://localhost"}),
    ],
)
def test_every_way_to_show_a_password_counts(start: Any, path: str, body: str | None, shown: dict[str, str]) -> None:
    one = start(RULES)
    upgrade = dict(line.split(": ", 1) for line in HANDSHAKE.splitlines()) if path == "/ws/a" else {}
    statuses = []
    for number in range(FREE):
        wrong = {"Cookie": f"auth=jo:{number}"} if path == "/ws/a" else basic("jo", str(number))
        method = "GET" if body is None else "POST"
        headers = {**FORM, **upgrade, **shown, **wrong, "Host": "localhost"}
        statuses.append(http_call(one.port, method, path, body, headers)[0])
    assert statuses == [401] * FREE
    began = time.monotonic()
    assert ask(one.port, basic("jo", "right"))[0] == 200
    assert time.monotonic() - began > FIRST / 2


def test_many_cookies_of_one_handshake_are_as_many_guesses(start: Any) -> None:
    one = start(RULES)
    upgrade = dict(line.split(": ", 1) for line in HANDSHAKE.splitlines())
    many = "; ".join(f"auth=jo:{number}" for number in range(500))
    shown = {**upgrade, "Origin": "http://localhost", "Host": "localhost", "Cookie": many}
    assert http_call(one.port, "GET", "/ws/a", None, shown)[0] == 401
    assert scrape_refused(one)["wrong-password"] == 1  # a request
    began = time.monotonic()
    assert ask(one.port, basic("jo", "right"))[0] == 200
    assert time.monotonic() - began > 4 * FIRST  # of eight cookies that were looked at


def test_a_password_of_another_section_is_no_guess(start: Any) -> None:
    one = start(RULES)
    assert [ask(one.port, basic("ann", "other"))[0] for _ in range(3 * FREE)] == [401] * 3 * FREE
    assert scrape_refused(one)["no-password"] == 3 * FREE


def test_behind_a_proxy_each_client_has_its_own_count(start: Any) -> None:
    one = start("[server]\nxheaders = true\n" + RULES)
    link = http.client.HTTPConnection("127.0.0.1", one.port, timeout=60)

    def by(client: str, password: str) -> int:
        link.request("GET", "/stats/", headers={**basic("jo", password), "X-Real-IP": client})
        reply = link.getresponse()
        reply.read()
        return reply.status

    assert [by("10.0.0.7", str(number)) for number in range(FREE)] == [401] * FREE
    began = time.monotonic()
    assert [by("10.0.0.8", "right"), by("10.0.0.8", "right")] == [200, 200]
    assert time.monotonic() - began < 60
    assert by("10.0.0.7", "right") == 200  # it waited: that another showed it here is not its own
    link.close()


def test_the_log_tells_guesses_from_requests_without_a_password_once_a_second(start: Any) -> None:
    one = start(RULES)
    began = time.monotonic()
    for number in range(FREE):
        assert ask(one.port, {})[0] == 401
        assert ask(one.port, basic("jo", f"hunter{number}"))[0] == 401
    guess(one.port, 2, 12)
    most = time.monotonic() - began + 2

    def lines() -> list[str]:
        return re.findall(r"127\.0\.0\.1 was refused.*", one.log.read_text())

    def told(kind: str, alone: str) -> int:
        found = 0
        for line in lines():
            number = re.search(rf"(\d+) {kind}", line)
            found += int(number[1]) if number else re.search(alone, line) is not None
        return found

    counts = scrape_refused(one)
    wanted = (counts["wrong-password"], counts["not-looked-at"], counts["no-password"])
    assert wanted[0] >= FREE and wanted[2] == FREE
    kinds = {"wrong passwords": "are wrong$", "passwords that were not looked at": "try again in [0-9]+ s$",
             "without the password": "a user name and password$"}  # fmt: skip
    until(lambda: tuple(told(*kind) for kind in kinds.items()) == wanted, lambda: (lines(), wanted))
    assert len(lines()) <= most
    assert "and these are wrong; in all: " in lines()[0]  # though requests without one came first
    assert not any(" more)" in line for line in lines())  # it would count a second time what "in all" has
    assert "hunter" not in one.log.read_text()


def test_who_waits_does_not_hold_up_the_end(start: Any) -> None:
    one = start("[server]\ndrain = 60s\n" + RULES)
    for number in range(FREE + 5):
        with contextlib.suppress(OSError):
            ask(one.port, basic("jo", str(number)))
    answers: list[tuple[int, float]] = []
    waiting = threading.Thread(target=lambda: answers.append(ask(one.port, basic("jo", "right"))))
    waiting.start()
    kim = basic("kim", "third")
    until(lambda: b"restmq_connections 2.0" in http_call(one.port, "GET", "/metrics?max=1", None, kim)[2])
    one.process.send_signal(signal.SIGTERM)
    waiting.join(60)
    one.process.wait(60)
    assert [status for status, _ in answers] == [429]


def test_the_answer_of_one_too_many_says_when_to_come_again(start: Any) -> None:
    one = start(RULES)
    guess(one.port, 1.5, 8)
    statuses = set()
    while 429 not in statuses:  # a command does not wait
        reply = http_call(one.port, "POST", "/queue", '{"cmd": "take", "queue": "a"}', basic("jo", "wrong"))
        statuses.add(reply[0])
    assert statuses <= {401, 429}
    assert json.loads(reply[2])["type"] == "urn:restmq:too-many-guesses"
    assert 1 <= int(reply[1]["retry-after"]) <= LONGEST
