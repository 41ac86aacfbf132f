"""Bodies of requests: judged by their head, bounded by what each address can mean, cut when they stall."""

from __future__ import annotations

import json
import socket
import sys
import threading
from typing import Any

import pytest

from tests.support import bodies
from tests.support.bodies import BATCH, BODY, FORM, JSON, KIB, LARGEST_FORM, LITTLE, MIB, PARTS, TEXT, VALUE, head
from tests.support.exchange import CLOSED, statuses, talk
from tests.support.requests import scrape, stats

#: Every address, and the most that its bodies may have.
MOST = [
    *(("POST", "/q/{}", kind, most) for kind, most in ((FORM, LARGEST_FORM), (PARTS, LARGEST_FORM), (TEXT, VALUE),
                                                       (JSON, VALUE), (BATCH, BODY), (None, VALUE))),
    *(("POST", "/", kind, most) for kind, most in ((FORM, LARGEST_FORM), (PARTS, LARGEST_FORM), (TEXT, VALUE))),
    *(("POST", "/queue", kind, LARGEST_FORM) for kind in (FORM, PARTS, JSON, None)),
    *(("POST", "/q/{}/ack", kind, 4 * MIB) for kind in (JSON, FORM, None)),
    *(("POST", "/dead/{}", kind, MIB) for kind in (FORM, PARTS)),
    *(("POST", path, kind, LITTLE) for path in ("/q/{}/take", "/q/{}/1", "/p/{}", "/control/{}", "/settings/{}")
      for kind in (FORM, JSON)),
    *(("GET", path, FORM, LITTLE) for path in (
        "/", "/?queue={}", "/q/{}", "/q/{}/1", "/q/", "/queue", "/c/{}", "/sse/{}", "/ws/{}", "/p/{}", "/control/",
        "/control/{}", "/stats/", "/stats/{}", "/settings/{}", "/peek/{}", "/dead/{}", "/ledger/{}", "/metrics",
        "/j/{}", "/healthz", "/readyz", "/robots.txt", "/openapi.json", "/static/restmq.css")),
    ("HEAD", "/q/{}", FORM, LITTLE),
    ("DELETE", "/q/{}", FORM, LITTLE),
    ("DELETE", "/q/{}/1", FORM, LITTLE),
    ("DELETE", "/dead/{}", FORM, LITTLE),
]  # fmt: skip


def until_answer(link: socket.socket, before: bytes = b"") -> bytes:
    """What comes up to the end of one answer."""
    data = before
    while b"\r\n\r\n" not in data:
        more = link.recv(1 << 16)
        assert more, data
        data += more
    top, _, body = data.partition(b"\r\n\r\n")
    fields = dict(line.lower().split(b": ", 1) for line in top.split(b"\r\n")[1:])
    missing = 0 if top.startswith(b"HTTP/1.1 100") else int(fields.get(b"content-length", b"0")) - len(body)
    while missing > 0:
        more = link.recv(1 << 16)
        assert more, data
        data, missing = data + more, missing - len(more)
    return data


@pytest.mark.parametrize(("method", "path", "kind", "most"), MOST)
def test_each_address_tells_at_the_head_how_much_it_takes(
    instance: Any, queue: str, method: str, path: str, kind: str | None, most: int
) -> None:
    path = path.replace("{}", queue)
    with socket.create_connection(("127.0.0.1", instance.port), timeout=60) as link:
        link.sendall(head(method, path, kind, f"Content-Length: {most + 1}", "Expect: 100-continue"))
        said = until_answer(link) if method != "HEAD" else link.recv(1 << 16)
        assert said.startswith(b"HTTP/1.1 413 ") and b"\r\nConnection: close\r\n" in said, said
        assert link.recv(1) == b""
    with socket.create_connection(("127.0.0.1", instance.port), timeout=60) as link:
        link.sendall(head(method, path, kind, f"Content-Length: {most}", "Expect: 100-continue"))
        assert link.recv(1 << 16) == b"HTTP/1.1 100 Continue\r\n\r\n"


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize(("method", "path", "kind", "most"), [one for one in MOST if one[3] < BODY])
def test_a_body_that_is_over_is_thrown_away_and_the_connection_goes_on(
    instance: Any, queue: str, method: str, path: str, kind: str | None, most: int, chunked: bool
) -> None:
    path = path.replace("{}", queue)
    data = b"x" * (most + 1)
    if chunked:
        halves = data[: most // 2], data[most // 2 :]
        body = b"".join(b"%x\r\n%b\r\n" % (len(half), half) for half in halves) + b"0\r\n\r\n"
        framing = "Transfer-Encoding: chunked"
    else:
        body, framing = data, f"Content-Length: {len(data)}"
    good = head("GET", f"/stats/{queue}")
    with socket.create_connection(("127.0.0.1", instance.port), timeout=60) as link:
        link.sendall(good + head(method, path, kind, framing) + body + good)
        data = b""
        while data.count(b"HTTP/1.1 200 ") < 2:
            more = link.recv(1 << 16)
            assert more, data
            data += more
    assert statuses(data) == [200, 413, 200]


REFUSED = [
    ("PUT", "/q/{}", 405),
    ("POST", "/control/", 405),
    ("POST", "/healthz", 405),
    ("POST", "/nothing/here", 404),
    ("POST", "/q/{}/1/2", 404),
    ("DELETE", "/q/{}", 403),
    ("POST", "/p/{}", 403),
    ("POST", "/settings/{}", 403),
    ("POST", "/q/{}/take", 401),
    ("POST", "/q/{}/ack", 401),
]


@pytest.fixture(scope="module")
def guarded(redis_server: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """An instance with access rules."""
    from tests.support.instance import Instance

    rules = "[admin]\nhosts_deny = all\n[rest:consumer]\nusername = u\npassword = p\n"
    one = Instance(tmp_path_factory.mktemp("guarded"), redis_server.address, rules)
    yield one
    one.stop()


@pytest.mark.parametrize("framing", ["Content-Length: 60000", "Transfer-Encoding: chunked"])
@pytest.mark.parametrize(("method", "path", "status"), REFUSED)
def test_who_may_not_is_told_at_the_head_and_never_hears_100(
    guarded: Any, queue: str, method: str, path: str, status: int, framing: str
) -> None:
    elsewhere = status if path == "/healthz" else 403  # whoever watches over the server asks that
    for lines, wanted in ((), status), (("Origin: http://elsewhere.example",), elsewhere):
        with socket.create_connection(("127.0.0.1", guarded.port), timeout=60) as link:
            link.sendall(head(method, path.replace("{}", queue), FORM, framing, "Expect: 100-continue", *lines))
            said = until_answer(link)
            assert statuses(said) == [wanted], said
            assert b"\r\nConnection: close\r\n" in said
            assert link.recv(1) == b""


def test_a_host_that_is_not_ours_is_told_at_the_head(instance: Any, queue: str) -> None:
    asked = head("POST", f"/q/{queue}", TEXT, "Content-Length: 9", "Expect: 100-continue")
    with socket.create_connection(("127.0.0.1", instance.port), timeout=60) as link:
        link.sendall(asked.replace(b"Host: localhost", b"Host: elsewhere.example"))
        assert statuses(until_answer(link)) == [421]
        assert link.recv(1) == b""


def test_an_answer_at_the_head_comes_after_those_before_it(guarded: Any, queue: str) -> None:
    adds = b"".join(head("POST", f"/q/{queue}", TEXT, "Content-Length: 1") + b"x" for _ in range(20))
    last = head("POST", f"/p/{queue}", FORM, "Content-Length: 5000000", "Expect: 100-continue")
    got, still, data = talk(guarded.port, [adds + last], answers=21, closes=True)
    assert (got, still) == ([200] * 20 + [403], CLOSED), data


def test_a_forbidden_body_is_read_past_without_being_held(guarded: Any, queue: str) -> None:
    length = 8 * MIB
    with socket.create_connection(("127.0.0.1", guarded.port), timeout=60) as link:
        link.sendall(head("POST", f"/p/{queue}", FORM, f"Content-Length: {length}"))
        assert statuses(until_answer(link)) == [403]  # before a byte of it
        link.sendall(b"x" * length + head("GET", "/healthz"))
        assert statuses(until_answer(link)) == [200]


def test_a_body_is_asked_for_when_it_may_come(instance: Any, queue: str) -> None:
    with socket.create_connection(("127.0.0.1", instance.port), timeout=60) as link:
        link.sendall(head("POST", f"/q/{queue}", TEXT, "Content-Length: 3", "Expect: 100-continue"))
        assert link.recv(1 << 16) == b"HTTP/1.1 100 Continue\r\n\r\n"
        link.sendall(b"abc")
        assert statuses(until_answer(link)) == [200]
    assert json.loads(instance.http("GET", f"/q/{queue}")[2])["value"] == "abc"


def test_a_body_of_which_nothing_comes_is_cut_though_it_came_fast_before(start: Any, queue: str) -> None:
    one = start("[limits]\nbody_timeout = 1s\n")
    with socket.create_connection(("127.0.0.1", one.port), timeout=60) as link:
        link.sendall(head("POST", f"/q/{queue}", BATCH, f"Content-Length: {8 * MIB}") + b"x" * (8 * MIB - 1))
        assert statuses(until_answer(link)) == [408]  # by its size it might have taken 8192 s
        assert link.recv(1) == b""
    assert stats(one, queue)["added"] == 0


CROWDED = f"[limits]\nmax_value = 64k\nmax_body = {4 * MIB}\nmax_bodies = {8 * MIB}\n"


def begun(port: int, queue: str, size: int, *lines: str, sent: int = 0) -> socket.socket:
    """A connection with a batch that is under way."""
    link = socket.create_connection(("127.0.0.1", port), timeout=60)
    framing = lines or (f"Content-Length: {size}",)
    link.sendall(head("POST", f"/q/{queue}", BATCH, *framing) + b"x" * sent)
    return link


@pytest.mark.parametrize("lines", [(), ("Transfer-Encoding: chunked",)])
def test_a_large_body_waits_until_there_is_room_for_it(start: Any, queue: str, lines: tuple[str, ...]) -> None:
    one = start(CROWDED)
    size = 4 * MIB
    line = b"x" * 65535 + b"\n"
    body = line * (size // len(line))
    if lines:
        body = b"".join(b"%x\r\n%b\r\n" % (len(line), line) for _ in range(size // len(line))) + b"0\r\n\r\n"
    links = [begun(one.port, queue, size, *lines) for _ in range(8)]
    done = []

    def send(link: socket.socket) -> None:
        with link:
            link.sendall(body)
            done.extend(statuses(until_answer(link)))

    threads = [threading.Thread(target=send, args=(link,)) for link in links]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert done == [200] * 8
    assert stats(one, queue)["added"] == 8 * 64


def test_who_waits_for_room_in_vain_is_told_so_and_may_go_on(start: Any, queue: str) -> None:
    one = start(CROWDED + "body_timeout = 300s\n")
    held = [begun(one.port, queue, 4 * MIB) for _ in range(2)]
    with begun(one.port, queue, 4 * MIB) as third:
        # Those that came before it and send nothing give their room back first.
        for link in held:
            said = until_answer(link)
            assert statuses(said) == [503] and b"Retry-After" in said and b"urn:restmq:crowded" in said
            link.close()
        found = scrape(one)
        assert found["restmq_held_bytes", "bodies"] == 4 * MIB
        assert found["restmq_crowded_waited_total", "bodies"] == 1
        assert found["restmq_crowded_refused_total", "bodies"] == 2
        third.sendall((b"x" * 65535 + b"\n") * 64)
        assert statuses(until_answer(third)) == [200]
    found = scrape(one)
    assert found["restmq_held_bytes", "bodies"] == 0 < found["restmq_held_most_bytes", "bodies"]


def test_no_100_is_sent_before_there_is_room(start: Any, queue: str) -> None:
    one = start(CROWDED)
    held = [begun(one.port, queue, 4 * MIB, sent=3 * MIB) for _ in range(2)]
    with socket.create_connection(("127.0.0.1", one.port), timeout=60) as link:
        link.sendall(head("POST", f"/q/{queue}", BATCH, f"Content-Length: {4 * MIB}", "Expect: 100-continue"))
        link.settimeout(0.5)
        with pytest.raises(socket.timeout):
            link.recv(1)
        link.settimeout(60)
        held[0].close()
        assert link.recv(1 << 16) == b"HTTP/1.1 100 Continue\r\n\r\n"
        held[1].close()


def test_the_room_of_those_who_leave_is_others_and_small_bodies_need_none(start: Any, queue: str) -> None:
    one = start(CROWDED)
    for _ in range(10):
        held = [begun(one.port, queue, 4 * MIB, sent=MIB) for _ in range(2)]
        waits = begun(one.port, queue, 4 * MIB, sent=70 * KIB)
        assert one.http("POST", f"/q/{queue}", "x", {"Content-Type": TEXT})[0] == 200
        for link in (waits, *held):
            link.close()
    size = 4 * MIB
    for _ in range(3):
        with begun(one.port, queue, size) as link:
            link.sendall((b"x" * 65535 + b"\n") * (size >> 16))
            assert statuses(until_answer(link)) == [200]


GROUPS = sorted({(case.method, case.path, case.name.partition(":")[0]) for case in bodies.cases()})
#: Milliseconds of CPU for a MiB, and besides. What a body costs is a third of it. PyPy compiles as it goes, and reads
#: JSON in Python: there the bound finds only what is not linear, which takes many seconds.
FOR_A_MIB, BESIDES = (50, 30) if sys.implementation.name == "cpython" else (1000, 1000)
#: What is sent anew when it took too long: on a machine that others use, a cache miss is somebody else's.
TRIES = 3


#: Milliseconds of CPU that a MiB of ordinary heads takes on a machine that nobody else uses.
ORDINARY = 22


def slowness(instance: Any) -> float:
    """How many times as long this machine takes now, because others use it; 1 at least."""
    one = bodies.HEADS["a path of letters"]
    spent = bodies.spend(instance.process.pid, instance.port, one * (MIB // len(one)), MIB // len(one))
    return max(1.0, spent.cpu * 1000 / ORDINARY)


def within(instance: Any, data: bytes, many: int = 1) -> tuple[float, float, int]:
    """Milliseconds of CPU that it took at the best of some tries, what it may take, and its status."""
    most = FOR_A_MIB * len(data) / MIB + BESIDES
    spent = bodies.spend(instance.process.pid, instance.port, data, many)
    for _ in range(TRIES - 1):
        if spent.cpu * 1000 <= most:
            break
        most = max(most, (FOR_A_MIB * len(data) / MIB + BESIDES) * slowness(instance))
        spent = min(spent, bodies.spend(instance.process.pid, instance.port, data, many))
    return spent.cpu * 1000, most, spent.status


@pytest.mark.parametrize(("method", "path", "group"), GROUPS)
def test_no_body_holds_an_instance(instance: Any, queue: str, method: str, path: str, group: str) -> None:
    for case in bodies.cases():
        if (case.method, case.path, case.name.partition(":")[0]) == (method, path, group):
            cpu, most, status = within(instance, bodies.request(case, queue, case.most))
            assert cpu <= most, (case.name, cpu, most)
            assert status in (200, 204, 400, 404, 413, 415), (case.name, status)
            assert instance.http("DELETE", f"/q/{queue}")[0] == 200


@pytest.mark.parametrize("name", bodies.HEADS)
def test_no_head_holds_an_instance(instance: Any, queue: str, name: str) -> None:
    one = bodies.HEADS[name].replace(b"{}", queue.encode())
    cpu, most, status = within(instance, one * (MIB // len(one)), MIB // len(one))
    assert cpu <= most
    assert status in (200, 204, 400, 403, 404, 426), status


def chunks(*sizes: int) -> bytes:
    """A body of such chunks."""
    return b"".join([b"%x\r\n%b\r\n" % (size, b"x" * size) for size in sizes]) + b"0\r\n\r\n"


@pytest.mark.parametrize(
    ("sizes", "status"),
    [
        ([1] * 4096, 200),
        ([1] * 4000 + [5000], 200),
        ([1000] + [1] * 4000, 200),
        ([9] * 10_000, 200),
        ([1, 20] * 5000, 200),
        ([1] * 5000, 400),
        ([7] * 40_000, 400),
        ([1] * 200_000, 400),
    ],
)
def test_a_body_of_many_chunks_has_chunks_of_some_size(
    instance: Any, queue: str, sizes: list[int], status: int
) -> None:
    asked = head("POST", f"/q/{queue}", TEXT, "Transfer-Encoding: chunked")
    spent = bodies.spend(instance.process.pid, instance.port, asked + chunks(*sizes))
    assert spent.status == status
    looked = json.loads(instance.http("GET", f"/peek/{queue}")[2])["elements"]
    assert [len(one["value"]) for one in looked] == ([sum(sizes)] if status == 200 else [])


def test_small_chunks_are_read_as_they_stand_wherever_they_are_cut(instance: Any, queue: str) -> None:
    asked = head("POST", f"/q/{queue}", TEXT, "Transfer-Encoding: chunked")
    whole = b"1;a=b\r\na\r\n2\r\nbc\r\n003\r\n\r\n1\r\n10\r\n" + b"0123456789abcdef" + b"\r\n0\r\nTrailer: x\r\n\r\n"
    for cut in range(1, len(whole)):
        with socket.create_connection(("127.0.0.1", instance.port), timeout=60) as link:
            link.sendall(asked + whole[:cut])
            link.sendall(whole[cut:])
            assert until_answer(link).startswith(b"HTTP/1.1 200")
    got = [json.loads(instance.http("GET", f"/q/{queue}")[2])["value"] for _ in range(len(whole) - 1)]
    assert set(got) == {"abc\r\n10123456789abcdef"}


@pytest.mark.parametrize(
    "wrong", [b"1\r\nab\r\n0\r\n\r\n", b"2\r\na\r\n0\r\n\r\n", b"-1\r\na\r\n", b"1 \r\na\n\r\n", b"\r\n"]
)
def test_a_chunk_that_is_not_as_long_as_it_says_ends_the_connection(instance: Any, queue: str, wrong: bytes) -> None:
    asked = head("POST", f"/q/{queue}", TEXT, "Transfer-Encoding: chunked")
    spent = bodies.spend(instance.process.pid, instance.port, asked + b"1\r\nx\r\n" + wrong)
    assert spent.status == 400
    assert stats(instance, queue)["len"] == 0
