"""What a body takes of memory: at most four times its size while it is worked on, and nothing afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support import bodies
from tests.support.bodies import MIB, TEXT, head
from tests.support.memory import memory
from tests.support.patience import until

#: Bodies of which another way of reading makes ten to ninety times their size.
NAMES = [
    ("/q/{}", "batch: LF"),
    ("/q/{}", "batch: CRLF"),
    ("/q/{}", "batch: small lines"),
    ("/q/{}", "batch: ten thousand lines"),
    ("/q/{}", "batch: large lines"),
    ("/q/{}", "multipart: a name of backslashes"),
    ("/q/{}", "multipart: small parts"),
    ("/q/{}", "form, ttl: escaped letters"),
    ("/q/{}", "form, ttl: broken escapes"),
    ("/queue", "command, id: empty lists"),
    ("/queue", "command, id: lists in lists"),
    ("/queue", "command, value: a string with one emoji"),
    ("/queue", "command, value: a string of accents"),
    ("/queue", "command, value: a list with one emoji"),
    ("/queue", "command, value: a string with an escaped emoji"),
    ("/queue", "command, value: a list with an escaped emoji"),
    ("/queue", "command, id: a string with one emoji"),
    ("/queue", "form, body: letters and one emoji"),
    ("/queue", "page: no UTF-8"),
    ("/queue", "page: a value of quotes"),
    ("/q/{}/ack", "acknowledgement: small objects"),
    ("/q/{}/ack", "acknowledgement: a long field"),
    ("/q/{}/ack", "acknowledgement: a string with one emoji"),
    ("/q/{}/ack", "acknowledgement: a thousand reasons with an emoji"),
    ("/dead/{}", "keys: a list with emojis"),
    ("/dead/{}", "keys: commas"),
]
NOISE = 2 * MIB  # what an instance takes by itself meanwhile


@pytest.mark.parametrize(("path", "name"), NAMES)
def test_a_body_takes_four_times_its_size_and_gives_it_back(start: Any, queue: str, path: str, name: str) -> None:
    one = start()
    case = next(case for case in bodies.cases() if (case.path, case.name) == (path, name))
    pid = one.process.pid
    for body in (b"", b"x"):  # what the first request of an instance makes is not of its body
        bodies.spend(pid, one.port, head("POST", f"/q/{queue}", TEXT, f"Content-Length: {len(body)}") + body)
    data = bodies.request(case, queue, case.most)
    before = memory(pid, "VmRSS")
    spent = bodies.spend(pid, one.port, data)
    assert spent.peak <= 4 * len(data) + NOISE
    until(lambda: memory(pid, "VmRSS") - before <= NOISE)


def test_bodies_of_the_forbidden_are_never_held(start: Any, queue: str) -> None:
    one = start("[admin]\nhosts_deny = all\n")
    pid = one.process.pid
    bodies.spend(pid, one.port, head("GET", "/healthz"))
    before = memory(pid, "VmRSS")
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    data = head("POST", f"/p/{queue}", bodies.FORM, f"Content-Length: {15 * MIB}") + b"x" * (15 * MIB)
    for _ in range(10):
        assert bodies.spend(pid, one.port, data).status == 403
    assert memory(pid, "VmHWM") - before <= NOISE
