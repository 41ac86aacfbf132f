"""The links to Redis and the core on them: Redis slow, full, forgetful, too old, or closed to us."""

from __future__ import annotations

import http.client
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.task import Clock

from restmq.model.errors import Full, Unavailable
from restmq.store.connection import NEEDED, Redis, encode, error_of, info, too_old
from tests import ROOT
from tests.support import reactor
from tests.support.instance import TWISTD, Instance, troubles
from tests.support.patience import LONG, PATIENCE, until
from tests.support.ports import free_port
from tests.support.redis_server import RedisServer
from tests.support.requests import FORM


def client(server: RedisServer, db: int = 0, password: str | None = None) -> Any:
    return server.client(db=db, password=password)


class Consumer:
    """Somebody at /c, with a thread that reads."""

    def __init__(self, one: Instance, queue: str) -> None:
        until(lambda: self._connected(one, queue))
        self.lines: list[bytes] = []
        threading.Thread(target=self._read, daemon=True).start()
        until(lambda: b'"consumers": 1' in one.http("GET", f"/stats/{queue}")[2])

    def _connected(self, one: Instance, queue: str) -> bool:
        """503 as long as the link for messages is not there."""
        self.link = http.client.HTTPConnection("127.0.0.1", one.port, timeout=PATIENCE)
        self.link.request("GET", f"/c/{queue}")
        self.answer = self.link.getresponse()
        return self.answer.status == 200

    def _read(self) -> None:
        while line := self.answer.readline():
            self.lines.append(line)


class Silent:
    """A server that speaks as much of Redis as a test gives it: it answers some commands, and others never."""

    def __init__(self, answers: dict[bytes, bytes]) -> None:
        self.answers, self.links, self.socket = answers, 0, socket.create_server(("127.0.0.1", 0))
        self.address = "127.0.0.1:%d" % self.socket.getsockname()[1]
        self._kept: list[socket.socket] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                link = self.socket.accept()[0]
            except OSError:
                return
            self._kept.append(link)
            self.links += 1
            threading.Thread(target=self._talk, args=(link,), daemon=True).start()

    def _talk(self, link: socket.socket) -> None:
        while True:
            try:
                asked = link.recv(65536).lower()
                if not asked:
                    return
                for word, answer in self.answers.items():
                    link.sendall(answer * asked.count(b"\r\n%b\r\n" % word))
            except OSError:
                return

    def close(self) -> None:
        self.socket.close()
        for link in self._kept:
            link.close()


@pytest.fixture
def silent() -> Iterator[Callable[..., Silent]]:
    made: list[Silent] = []

    def one(**answers: bytes) -> Silent:
        made.append(Silent({word.encode(): answer for word, answer in answers.items()}))
        return made[-1]

    yield one
    for each in made:
        each.close()


# -- a Redis that does not answer


def test_a_stopped_redis_is_503_maybe_within_its_deadline_and_all_works_when_it_goes_on(own: Any, start: Any) -> None:
    one = start("[redis]\ndeadline = 3s\n", own.address)
    consumer = Consumer(one, "live")
    one.form("/q/live", "value=before")
    until(lambda: len(consumer.lines) == 1)
    own.process.send_signal(signal.SIGSTOP)
    status, headers, body = one.http("POST", "/q/kept", "x", {"Content-Type": "text/plain"})
    assert (status, headers["retry-after"]) == (503, "1")
    assert b'"stored": "maybe"' in body and b"within 3 s" in body
    until(lambda: b'"stored": "no"' in one.form("/q/kept", "value=y")[1])
    assert b"did not answer within 3 s" in one.form("/q/kept", "value=y")[1]
    time.sleep(4.5)  # so that the message link has been given up too, and greetings
    own.process.send_signal(signal.SIGCONT)
    until(lambda: one.form("/q/kept", "value=after")[0] == 200)
    until(lambda: b'"consumers": 1' in one.http("GET", "/stats/live")[2])
    assert one.form("/q/live", "value=after")[0] == 200
    until(lambda: b'"after"' in consumer.lines[-1])
    log = one.stop()
    assert log.count("cannot be used: Redis did not answer within 3 s; trying again") == 1, log
    assert "can be used again" in log


@pytest.mark.parametrize(
    ("answers", "password"),
    [
        ({}, None),  # SELECT
        ({}, "x"),  # AUTH
        ({"select": b"+OK\r\n"}, None),  # INFO
    ],
)
def test_a_redis_that_accepts_and_never_answers_is_given_up_and_tried_again(
    silent: Any, answers: dict[str, bytes], password: str | None
) -> None:
    server = silent(**answers)
    with reactor.core(server.address, deadline=0.2, password=password) as core:
        for already in range(3):
            until(lambda already=already: server.links > already)
            time.sleep(0.25)
            reactor.call(core.redis.watch)
        until(lambda: server.links > 3)
        assert core.redis.link is None
        with pytest.raises(Unavailable, match=r"did not answer within 0\.2 s") as caught:
            reactor.wait(core.add, b"q", b"x")
        assert not caught.value.maybe


def test_connecting_has_the_deadline_too(silent: Any) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        address = full.getsockname()
        waiting = [socket.socket() for _ in range(3)]
        for each in waiting:  # fill the backlog: the kernel answers no further SYN
            each.setblocking(False)
            each.connect_ex(address)
        with reactor.core("%s:%d" % address, deadline=0.3) as core:
            until(lambda: "time" in core.redis.why.lower() or "timed" in core.redis.why.lower())
        for each in waiting:
            each.close()


def test_what_this_process_slept_over_is_read_before_a_deadline_counts(own: Any) -> None:
    """The reactor is held up for longer than the deadline while the replies come; the watch comes first."""
    with reactor.core(own.address, deadline=5.0) as core:
        until(lambda: core.redis.link is not None)
        link, seconds, clock = core.redis.link, [0.0], Clock()
        assert link is not None
        core.redis.now, core.redis.clock = lambda: seconds[0], clock
        value = b"x" * 1_000_000  # more than one read of a socket takes
        reactor.wait(core.redis.call, b"SET", b"large", value)
        answers: list[Any] = []

        def ask() -> None:
            for _ in range(3):
                core.redis.call(b"GET", b"large").then(lambda reply, error: answers.append(error or reply))

        def sleep_through() -> None:
            own.process.send_signal(signal.SIGCONT)
            assert select.select([link.transport.socket], [], [], PATIENCE)[0]
            seconds[0] += 6
            core.redis.watch()
            clock.advance(0)

        own.process.send_signal(signal.SIGSTOP)
        reactor.call(ask)
        reactor.call(sleep_through)
        while core.redis.link is link and len(answers) < 3:
            until(lambda: not link.quiet)  # it has read some of them
            reactor.call(clock.advance, 0.1)
        assert answers == [value] * 3
        assert core.redis.link is link


def test_a_process_that_was_stopped_finds_its_replies_and_trips_no_deadline(own: Any, start: Any) -> None:
    one = start("[redis]\ndeadline = 5s\n", own.address)
    consumer = Consumer(one, "live")
    answers: list[Any] = []
    own.process.send_signal(signal.SIGSTOP)
    posting = threading.Thread(target=lambda: answers.append(one.form("/q/live", "value=x")), daemon=True)
    posting.start()
    time.sleep(1)  # the command has left for Redis, which does not read it
    one.process.send_signal(signal.SIGSTOP)
    own.process.send_signal(signal.SIGCONT)
    time.sleep(6)
    one.process.send_signal(signal.SIGCONT)
    posting.join(PATIENCE)
    assert answers == [(200, b"live:1\r\n")]
    until(lambda: consumer.lines == [b'{"key": "live:1", "value": "x"}\r\n'])
    assert "cannot be used" not in one.stop()


def test_a_redis_that_loads_its_data_is_asked_again_over_the_same_connection(silent: Any) -> None:
    loading, time = b"-LOADING Redis is loading the dataset in memory\r\n", b"*2\r\n$1\r\n5\r\n$1\r\n0\r\n"
    text = b"redis_version:7.0.0\r\n"
    version = b"$%d\r\n%b\r\n" % (len(text), text)
    server = silent(select=b"+OK\r\n", info=version, load=b"+OK\r\n", time=time, set=loading, get=loading)
    with reactor.core(server.address) as core:
        until(lambda: "LOADING" in core.redis.why)
        with pytest.raises(Unavailable, match="LOADING"):
            reactor.wait(core.add, b"q", b"x")
        server.answers.update({b"set": b"$-1\r\n", b"get": b"$5\r\n1 abc\r\n"})
        until(lambda: core.redis.link is not None)
        assert server.links == 1


def test_the_watch_counts_its_own_seconds_and_not_those_of_the_wall_clock(redis_server: Any) -> None:
    with reactor.core(redis_server.address, 12, deadline=5.0) as core:
        until(lambda: core.redis.link is not None)
        link, seconds = core.redis.link, [0.0]
        core.redis.now = lambda: seconds[0]
        slot = reactor.call(lambda: core.redis.call(b"BLPOP", b"nothing", b"1"))
        seconds[0] = 4.7
        reactor.call(core.redis.watch)
        assert reactor.wait(lambda: slot) is None
        assert core.redis.link is link
        slot = reactor.call(lambda: core.redis.call(b"BLPOP", b"nothing", b"30"))
        seconds[0] += 5.1
        reactor.call(core.redis.watch)
        with pytest.raises(Unavailable, match="within 5 s") as caught:
            reactor.wait(lambda: slot)
        assert caught.value.maybe


def test_many_channels_in_one_unsubscribe_leave_the_replies_in_step(redis_server: Any) -> None:
    reactor.run()
    messages = Redis(redis_server.address, reactor.reactor, on_message=lambda channel, data: None)
    reactor.call(messages.start)
    until(lambda: messages.link is not None)
    replies = []

    def ask() -> None:
        for words in ((b"SUBSCRIBE", b"a", b"b"), (b"UNSUBSCRIBE", b"a", b"b"), (b"SUBSCRIBE", b"c"), (b"PING",)):
            messages.call(*words).then(lambda reply, error: replies.append((reply[0], reply[1])))

    reactor.call(ask)
    until(lambda: len(replies) == 4)
    assert replies == [(b"subscribe", b"b"), (b"unsubscribe", b"b"), (b"subscribe", b"c"), (b"pong", b"")]
    reactor.call(messages.disconnect)


# -- a Redis that is full


def test_a_full_redis_refuses_adds_and_does_everything_else(own: Any, start: Any) -> None:
    one, other = start("", own.address), client(own)
    for queue in ("take", "deleted", "purged", "forgotten", "live"):
        for value in range(4):
            assert one.form(f"/q/{queue}", f"value={value}&ttl=1h")[0] == 200
    assert one.form("/q/plain", "value=1")[0] == 200
    early = Consumer(one, "early")
    other.config_set("maxmemory", 1)
    for _ in range(2):
        assert b"Redis is full" in one.http("GET", "/readyz")[2]

    def refused(path: str) -> None:
        status, headers, body = one.http("POST", path, "x", {"Content-Type": "text/plain"})
        assert (status, headers["retry-after"]) == (503, "5"), body
        assert b'"type": "urn:restmq:full"' in body

    for path in ("/q/take", "/q/plain", "/q/new", "/q/take?ttl=1h", "/q/early"):
        refused(path)
    said = one.http("POST", "/queue", '{"cmd": "get", "queue": "take"}')
    assert b'"value": "0"' in said[2] and b'"count": 1' in said[2], said
    assert b'"count": 1' in one.http("GET", "/q/take")[2]
    assert b'"take:2"' in one.http("POST", "/q/take/take")[2]
    assert b'"plain:1"' in one.http("GET", "/q/plain")[2]
    assert one.http("DELETE", "/q/deleted/1")[0] in (200, 204)
    assert b'"deleted": true' in one.http("POST", "/queue", '{"cmd": "del", "queue": "deleted", "key": "deleted:2"}')[2]
    assert one.http("DELETE", "/q/purged")[0] in (200, 204)
    assert one.http("DELETE", "/q/forgotten?forget=1")[0] in (200, 204)
    for queue, left in (("take", 2), ("deleted", 2), ("purged", 0), ("live", 4)):
        assert b'"len": %d' % left in one.http("GET", f"/stats/{queue}")[2]
    live = Consumer(one, "live")
    until(lambda: len(live.lines) == 4)
    until(lambda: b'"len": 0' in one.http("GET", "/stats/live")[2])
    assert one.http("POST", "/p/take", "policy=roundrobin", FORM)[0] == 200
    assert one.http("POST", "/control/take", "status=stop", FORM)[0] == 200
    (before,) = ((name, lasts) for name, lasts in other.zrange("restmq:{inst}:alive", 0, -1, withscores=True))
    until(lambda: (other.zscore("restmq:{inst}:alive", before[0]) or 0) > before[1] + 2000)  # its beats are taken
    refused("/q/take")
    assert one.log.read_text().count("Redis is full") == 1
    other.config_set("maxmemory", 0)
    assert one.form("/q/take", "value=again")[0] == 200
    assert one.form("/q/early", "value=heard")[0] == 200
    until(lambda: len(early.lines) == 1)
    log = one.stop()
    assert "given up" not in log and "fail" not in log, log


def test_a_redis_that_was_full_and_new_at_the_start_serves_when_there_is_room(own: Any) -> None:
    other = client(own)
    other.config_set("maxmemory", 1)
    with reactor.core(own.address) as core:
        until(lambda: "OOM" in core.redis.why)
        with pytest.raises(Unavailable, match="OOM"):
            reactor.wait(core.add, b"q", b"x")
        other.config_set("maxmemory", 0)
        until(lambda: core.redis.link is not None)
        assert reactor.wait(core.add, b"q", b"x") == 1


# -- a Redis that forgets


def test_a_redis_that_forgot_its_functions_is_taught_them_and_nobody_notices(own: Any, start: Any) -> None:
    one, other = start("", own.address), client(own)
    consumer = Consumer(one, "live")
    for turn in range(1, 4):
        other.function_flush()
        assert one.form("/q/plain", f"value={turn}") == (200, b"plain:%d\r\n" % turn)
        assert one.form("/q/live", f"value={turn}")[0] == 200
        other.function_flush()
        assert b'"plain:%d"' % turn in one.http("GET", "/q/plain")[2]
        until(lambda turn=turn: len(consumer.lines) == turn)
        other.function_flush()
        assert b'"len": 0' in one.http("GET", "/stats/plain")[2]
        assert one.http("DELETE", "/q/plain")[0] in (200, 204, 404)
    assert other.info("stats")["total_error_replies"] >= 9


def test_a_function_flush_between_concurrent_adds_loses_and_doubles_none(own: Any) -> None:
    other = client(own)
    with reactor.core(own.address) as core:
        until(lambda: core.redis.link is not None)
        slots: list[Any] = []
        for turn in range(50):
            other.function_flush()
            slots += reactor.call(lambda turn=turn: [core.add(b"q", b"%d" % turn) for _ in range(20)])
        numbers = [reactor.wait(lambda slot=slot: slot) for slot in slots]
        assert sorted(numbers) == list(range(1, 1001))
        books = reactor.wait(core.inspection.ledger, b"q")
        assert (books["added"], books["waiting"], books["imbalance"]) == (1000, 1000, 0)


# -- the registry of names


def test_a_queue_forgotten_by_one_and_born_again_by_another_is_listed(own: Any) -> None:
    with reactor.core(own.address) as one, reactor.core(own.address) as other:
        until(lambda: one.redis.link is not None and other.redis.link is not None)
        for turn in range(200):
            reactor.wait(one.add, b"q", b"x")

            async def both() -> None:
                adding = other.add(b"q", b"y")
                await one.purge(b"q", forget=True)
                await adding

            reactor.wait(both)
            waiting = reactor.wait(one.inspection.ledger, b"q")["waiting"]
            reactor.wait(other.redis.call, b"PING")  # what it hinted has arrived
            assert waiting == 0 or reactor.wait(one.inspection.queues) == [b"q"], turn


# -- which Redis


@pytest.mark.parametrize(
    ("said", "old"),
    [
        ({"redis_version": "7.0.0"}, False),
        ({"redis_version": "7.4.1"}, False),
        ({"redis_version": "8.2.0", "server_name": "redis"}, False),
        ({"redis_version": "10.0.0"}, False),
        ({"redis_version": "6.2.14"}, True),
        ({"redis_version": "2.8.9"}, True),
        ({"redis_version": "7.2.4", "server_name": "valkey", "valkey_version": "8.0.1"}, False),
        ({"redis_version": "7.2.4", "server_name": "valkey", "valkey_version": "10.1.0"}, False),
        ({"redis_version": "7.2.4", "server_name": "valkey", "valkey_version": "7.2.6"}, True),
        ({"redis_version": "7.2.4", "valkey_version": "7.2.6"}, True),
        ({"redis_version": "unstable"}, False),
        ({"redis_version": "255.255.255"}, False),
        ({}, False),
    ],
)
def test_redis_below_seven_and_valkey_below_eight_are_too_old(said: dict[str, str], old: bool) -> None:
    assert ("RestMQ needs Redis 7.0" in too_old(said)) is old
    assert old or too_old(said) == ""


def test_the_server_of_these_tests_tells_a_version_that_is_accepted(own: Any) -> None:
    with socket.socket(socket.AF_UNIX) as link:
        link.connect(str(own.socket))
        link.sendall(b"INFO server\r\n")
        said = info(link.recv(65536))
    assert too_old(said) == ""
    product = "Valkey" if "valkey_version" in said else "Redis"
    assert tuple(map(int, said[product.lower() + "_version"].split(".")))[:2] >= NEEDED[product]


def ended(redis: str, folder: Path) -> tuple[int, str]:
    """Start RestMQ, which will refuse; its exit code and its log."""
    command = [sys.executable, "-c", TWISTD, "-n", "--pidfile=", "restmq", "--port", str(free_port())]
    command += ["--redis", redis, "--data", str(folder / "data")]
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": paths}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=LONG)
    return done.returncode, done.stdout + done.stderr


def test_a_redis_too_old_is_refused_with_a_reason(silent: Any, tmp_path: Path) -> None:
    text = b"# Server\r\nredis_version:6.2.14\r\nredis_mode:standalone\r\n"
    server = silent(select=b"+OK\r\n", info=b"$%d\r\n%b\r\n" % (len(text), text))
    code, log = ended(server.address, tmp_path)
    assert code == 1
    assert "this is Redis 6.2.14: RestMQ needs Redis 7.0 or later, or Valkey 8 or later; nothing was touched" in log
    assert not troubles(log), log


def test_a_redis_of_another_layout_is_refused_and_not_touched(own: Any, tmp_path: Path) -> None:
    other = client(own)
    other.set("restmq:layout", "2 abc")
    code, log = ended(own.address, tmp_path)
    assert code == 1
    assert re.search(r"holds layout 2 of restmq: keys, this RestMQ knows 1: nothing was touched", log), log
    assert other.keys("*") == [b"restmq:layout"]
    assert not troubles(log), log


def test_readyz_tells_what_is_not_well_with_redis(own: Any, start: Any) -> None:
    one, other = start("", own.address), client(own)
    assert one.http("GET", "/readyz")[2] == b"OK\r\n"
    other.config_set("appendonly", "no")
    assert b"OK\r\nRedis has no append-only file" in one.http("GET", "/readyz")[2]
    other.config_set("appendonly", "yes")
    other.config_set("maxmemory-policy", "allkeys-lru")
    assert one.http("GET", "/readyz")[2] == b"OK\r\n"  # without a limit nothing is evicted
    other.config_set("maxmemory", 100_000_000)
    assert b"OK\r\nRedis evicts keys (allkeys-lru)" in one.http("GET", "/readyz")[2]
    other.config_set("maxmemory-policy", "noeviction")
    assert one.http("GET", "/readyz")[2] == b"OK\r\n"
    other.execute_command("REPLICAOF", "127.0.0.1", str(free_port()))
    assert b"OK\r\nRedis is a replica: it takes no writes\r\n" in one.http("GET", "/readyz")[2]
    status, answer = one.form("/q/x", "value=x")
    assert status == 503 and b"READONLY" in answer and b'"stored": "no"' in answer
    other.execute_command("REPLICAOF", "NO", "ONE")
    assert one.form("/q/x", "value=x")[0] == 200
    own.process.kill()  # a SIGTERM waits until the append-only file that was switched on again is whole
    until(lambda: one.http("GET", "/readyz")[0] == 503)
    status, headers, body = one.http("GET", "/readyz")
    assert headers["retry-after"] == "1"
    assert headers["content-type"] == "application/problem+json"
    assert b'"type": "urn:restmq:unavailable"' in body and b"Redis is away" in body


def test_error_replies_become_errors_of_ours() -> None:
    for word in ("LOADING", "READONLY", "NOAUTH", "NOPERM", "MISCONF"):
        assert isinstance(error_of(f"{word} some words"), Unavailable)
    assert isinstance(error_of("OOM command not allowed"), Full)
    assert isinstance(error_of("ERR wrong number"), RuntimeError)


def test_an_error_reply_to_a_plain_command_is_told_as_503(own: Any) -> None:
    with reactor.core(own.address) as core:
        until(lambda: core.redis.link is not None)
        client(own).execute_command("REPLICAOF", "127.0.0.1", str(free_port()))
        with pytest.raises(Unavailable, match="READONLY"):
            reactor.wait(core.redis.call, b"SET", b"x", b"y")


# -- a Redis that does not let us in


def unready(folder: Path, address: str, conf: str) -> Instance:
    """An instance that cannot be ready yet: it is started, and answers."""

    class Early(Instance):
        def http(self, method: str, path: str, *words: Any) -> Any:
            return super().http(method, "/healthz" if not self.up else path, *words)

        up = False

    folder.mkdir()
    one = Early(folder, address, conf)
    one.up = True
    return one


def test_a_wrong_password_is_told_and_tried_again_until_it_is_right(own: Any, tmp_path: Path) -> None:
    other = client(own)
    other.config_set("requirepass", "theirs")
    one = unready(tmp_path / "one", own.address, "[redis]\npassword = 0urs-secret\n")
    try:
        until(lambda: b"WRONGPASS" in one.http("GET", "/readyz")[2])
        status, body = one.form("/q/x", "value=x")
        assert status == 503 and b"could not auth: WRONGPASS" in body and b'"stored": "no"' in body
        time.sleep(3)  # several tries
        other = client(own, password="theirs")
        other.config_set("requirepass", "0urs-secret")
        until(lambda: one.form("/q/x", "value=x")[0] == 200)
        until(lambda: one.http("GET", "/readyz")[0] == 200)
        Consumer(one, "live")
    finally:
        log = one.stop()
    assert len([line for line in log.splitlines() if "WRONGPASS" in line]) == 1, log
    assert "can be used again" in log
    assert "0urs-secret" not in log and not troubles(log)


def test_a_missing_password_is_told_and_tried_again(own: Any, tmp_path: Path) -> None:
    client(own).config_set("requirepass", "theirs")
    one = unready(tmp_path / "one", own.address, "")
    try:
        until(lambda: b"NOAUTH" in one.form("/q/x", "value=x")[1])
        client(own, password="theirs").config_set("requirepass", "")
        until(lambda: one.form("/q/x", "value=x")[0] == 200)
    finally:
        log = one.stop()
    assert len([line for line in log.splitlines() if "NOAUTH" in line]) == 1, log
    assert not troubles(log)


def test_a_user_of_redis_who_may_touch_only_restmq_s_keys_is_enough(own: Any, tmp_path: Path) -> None:
    other = client(own)
    rights = ["~restmq:*", "&restmq:*", "+@all", "-info"]
    other.execute_command("ACL", "SETUSER", "broker", "on", ">0urs-secret", *rights)
    one = unready(tmp_path / "one", own.address, "[redis]\nusername = broker\npassword = 0urs-secret\n")
    try:
        until(lambda: b"NOPERM" in one.form("/q/x", "value=x")[1])
        other.execute_command("ACL", "SETUSER", "broker", "+info")
        until(lambda: one.form("/q/x", "value=x")[0] == 200)
        consumer = Consumer(one, "x")
        until(lambda: len(consumer.lines) == 1)
        assert one.form("/q/y", "value=y&ttl=1h")[0] == 200
        assert b'"y"' in one.http("GET", "/q/y")[2]
        other.execute_command("ACL", "SETUSER", "broker", "-fcall")
        status, body = one.form("/q/y", "value=y")
        assert status == 503 and b"Redis refuses for now (NOPERM)" in body and b'"stored": "no"' in body
    finally:
        log = one.stop()
    assert "0urs-secret" not in log and not troubles(log), log


def test_a_database_that_is_not_there_is_told(own: Any, tmp_path: Path) -> None:
    one = unready(tmp_path / "one", own.address, "[redis]\ndbid = 99\n")
    try:
        until(lambda: b"could not set dbid=99" in one.form("/q/x", "value=x")[1])
        assert b"DB index is out of range" in one.http("GET", "/readyz")[2]
    finally:
        log = one.stop()
    assert len([line for line in log.splitlines() if "DB index" in line]) == 1, log
    assert not troubles(log)


def test_a_redis_that_is_not_there_is_told_once(own: Any, tmp_path: Path) -> None:
    own.stop()
    one = unready(tmp_path / "one", own.address, "")
    try:
        until(lambda: b"Redis is away (" in one.form("/q/x", "value=x")[1])
        own.start()
        until(lambda: one.form("/q/x", "value=x")[0] == 200)
    finally:
        log = one.stop()
    assert len([line for line in log.splitlines() if "cannot be used" in line]) == 1, log
    assert not troubles(log)


# -- told to end twice


def half_a_request(one: Instance) -> socket.socket:
    """A request whose body does not come."""
    link = socket.create_connection(("127.0.0.1", one.port))
    link.sendall(b"POST /q/x HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\nContent-Length: 9\r\n\r\nhalf")
    assert one.http("GET", "/healthz")[0] == 200  # accepted after it, so that one is being read
    return link


def never_reads(one: Instance) -> socket.socket:
    """A live consumer that does not read, and much that waits for it."""
    link = socket.socket()
    link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    link.connect(("127.0.0.1", one.port))
    link.sendall(b"GET /c/x HTTP/1.1\r\nHost: localhost\r\n\r\n")
    until(lambda: b'"consumers": 1' in one.http("GET", "/stats/x")[2])
    for _ in range(20):
        assert one.http("POST", "/q/x", "x" * 400_000, {"Content-Type": "text/plain"})[0] == 200
    return link


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_who_is_told_twice_to_end_ends_at_once_and_without_a_traceback(own: Any, start: Any, number: Any) -> None:
    one = start("[server]\ndrain = 60s\n[live]\nmax_waiting = 64MiB\n", own.address)
    deaf, half = never_reads(one), half_a_request(one)
    one.process.send_signal(number)
    until(lambda: "ending: finishing requests" in one.log.read_text())
    time.sleep(0.5)
    assert one.process.poll() is None  # it waits for the rest of the request
    began = time.monotonic()
    one.process.send_signal(number)
    one.process.wait(PATIENCE)
    print(f"ended {time.monotonic() - began:.2f} s after the second signal")
    log = one.stop()
    assert not troubles(log) and "ending at once; connections cut: " in log, log
    assert one.process.returncode in (0, -number)
    half.close()
    deaf.close()


def test_a_consumer_that_does_not_read_holds_up_no_end(own: Any, start: Any) -> None:
    one = start("[server]\ndrain = 8s\n[live]\nmax_waiting = 64MiB\n", own.address)
    deaf = never_reads(one)
    one.process.terminate()
    one.process.wait(PATIENCE)
    log = one.stop()
    assert "a second signal" not in log
    books = start("", own.address).http("GET", "/stats/x")[2]  # what no socket took waits again, the rest is counted
    assert b'"leased": 0' in books and b'"len": 0' not in books, books
    deaf.close()


def test_two_signals_at_once_leave_no_traceback(start: Any) -> None:
    one = start()
    one.process.send_signal(signal.SIGTERM)
    one.process.send_signal(signal.SIGINT)
    one.process.wait(PATIENCE)
    assert not troubles(one.stop())


def test_one_signal_ends_also_while_redis_is_stopped(own: Any, start: Any) -> None:
    one = start("[redis]\ndeadline = 1s\n[server]\ndrain = 1s\n", own.address)
    consumer = Consumer(one, "x")
    own.process.send_signal(signal.SIGSTOP)
    one.process.terminate()
    one.process.wait(PATIENCE)
    assert not troubles(one.stop())
    consumer.link.close()


# -- IPv4 over IPv6


def test_an_ipv4_client_of_an_ipv6_socket_is_its_ipv4_address_everywhere(start: Any, queue: str) -> None:
    one = start(
        "[server]\nlisten = ::\naccess_log = yes\n"
        "xheaders = true\nxheader = X-Forwarded-For\ntrusted_proxies = 127.0.0.1\n"
        "[rest:producer]\nhosts_allow = 127.0.0.1\nhosts_deny = all\n"
    )
    text = {"Content-Type": "text/plain"}
    assert one.http("POST", f"/q/{queue}", "x", text)[0] == 200
    forwarded = {"X-Forwarded-For": "::ffff:127.0.0.1, 10.0.0.7"}
    assert one.http("POST", f"/q/{queue}", "x", {**text, **forwarded})[0] == 403
    forwarded = {"X-Forwarded-For": "10.0.0.8, ::ffff:127.0.0.1"}
    assert one.http("POST", f"/q/{queue}", "x", {**text, **forwarded})[0] == 403
    log = one.stop()
    assert f"127.0.0.1 POST /q/{queue} 200" in log
    assert f"10.0.0.7 POST /q/{queue} 403" in log
    assert f"10.0.0.8 POST /q/{queue} 403" in log
    assert "::ffff:" not in log


def test_over_an_ipv6_socket_too_a_page_cannot_give_this_machine_a_name_of_its_own(start: Any) -> None:
    one = start("[server]\nlisten = ::\n")
    assert one.http("GET", "/stats/", None, {"Host": "elsewhere.example"})[0] == 421


def test_commands_are_written_as_redis_reads_them() -> None:
    assert encode([b"SET", b"", b"\r\n"]) == b"*3\r\n$3\r\nSET\r\n$0\r\n\r\n$2\r\n\r\n\r\n"
