"""The library of functions: its text, how Redis comes to have it, and how versions of it live beside each other."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from restmq.store.library import FOLDER, MODULES, TIME, Library, context, source
from tests import ROOT
from tests.support.instance import TWISTD, Instance, troubles
from tests.support.patience import until
from tests.support.ports import free_port
from tests.support.redis_server import RedisServer
from tests.support.stored import BEGAN, CLOCK

NAME = Library().name


@pytest.fixture
def own(tmp_path: Path) -> Iterator[RedisServer]:
    (tmp_path / "own").mkdir()
    server = RedisServer(tmp_path / "own")
    yield server
    server.stop()


def libraries(link: Any) -> set[str]:
    """The names of the libraries that this Redis has."""
    return {one[1].decode() for one in link.function_list()}


# -- the text


def luacheck(folder: Path, text: str) -> str:
    """What luacheck says of the whole library; "" when it finds nothing. Each of its files uses those before it."""
    assert shutil.which("luacheck"), "no luacheck: apt-get install lua-check"
    (folder / "library.lua").write_text(text + "\nreturn verbs\n")
    words = "--no-color --codes --std lua51 --no-max-line-length --read-globals redis cjson struct -- library.lua"
    found = subprocess.run(["luacheck", *words.split()], cwd=folder, capture_output=True, text=True, check=False)
    lines = text.splitlines()
    said = re.sub(r"library.lua:(\d+)", lambda at: f"{at[0]}: {lines[int(at[1]) - 1]}", found.stdout)
    return said + found.stderr if found.returncode else ""


def test_luacheck_finds_nothing(tmp_path: Path) -> None:
    assert not luacheck(tmp_path, source()), luacheck(tmp_path, source())


def test_luacheck_would_find_a_global_that_is_not_defined(tmp_path: Path) -> None:
    text = source().replace("return string.format('%.0f', number)", "return digit(number)")
    assert "accessing undefined variable 'digit'" in luacheck(tmp_path, text)


def test_each_field_of_a_module_the_state_and_the_keys_is_defined_once() -> None:
    text = re.sub(r"--.*", "", source())
    defined = re.findall(r"^function (\w+)[.](\w+)", text, re.MULTILINE)
    assert len(defined) == len(set(defined))
    modules = {module for module, _ in defined}
    aliases = set(re.findall(r"^(\w+)[.](\w+) = ", text, re.MULTILINE))
    used = {(module, name) for module, name in re.findall(r"\b(\w+)[.](\w+)", text) if module in modules}
    assert used <= {*defined, *aliases}
    suffixes = set(re.findall(r"(\w+) = '", text.partition("SUFFIXES = {")[2].partition("}")[0]))
    assert set(re.findall(r"\bK[.](\w+)", text)) == suffixes | {"state", "prefix"}
    flags = set(re.findall(r"Q[.](\w+)", text.partition("local flags = Q.flags")[2].partition("= flags % 32")[0]))
    state = set(re.findall(r"Q[.](\w+)", text.partition("if packed then")[2].partition("= struct.unpack")[0]))
    assert set(re.findall(r"\bQ[.](\w+)", text)) == flags | state | {"packed"}


def test_the_keys_are_told_where_they_are_named() -> None:
    text = (FOLDER / "lib" / "keys.lua").read_text("utf-8")
    told = dict(re.findall(r"^--   (\w+) +(\w+) +(?:string|stream|hash|zset|list|set) ", text, re.MULTILINE))
    named = dict(re.findall(r"(\w+) = '(\w+)'", text.partition("SUFFIXES = {")[2].partition("}")[0]))
    assert told == {"state": "m", **named}


def test_every_file_is_a_part_of_the_library() -> None:
    assert {path.stem for path in (FOLDER / "lib").glob("*.lua")} == set(MODULES)
    for path in FOLDER.glob("*.lua"):
        assert re.search(rf"^(index_)?verb\('{path.stem}', ", path.read_text("utf-8"), re.MULTILINE), path.name


def test_what_restmq_conf_says_makes_no_other_library() -> None:
    assert context(0) == b"0"
    assert context(3, {"policy": "broadcast", "history": 1000}) == b"3"
    assert context(3, {"policy": "roundrobin", "history": 1000}) == b'3 {"policy": "roundrobin"}'
    assert Library(TIME).name == NAME != Library(CLOCK).name


def test_the_script_answers_as_the_functions_do(own: RedisServer) -> None:
    library = Library()
    with own.client() as link:
        link.function_load(library.text)

        def called(key: str, verb: str, *words: Any) -> Any:
            if key == "restmq:{f}:m":
                return link.fcall(library.functions[verb], 1, key, "0", *words)
            return link.eval(library.script(verb).text, 1, key, verb, "0", *words)

        for key in ("restmq:{f}:m", "restmq:{s}:m"):
            assert called(key, "add", 1, "", "e", b"a", b"b") == [1, 1, 0, 2]
            assert called(key, "add", 1, "", "e", b"c") == [3, 0]
            assert called(key, "lease", 1, 1000, "") == [b"e", b"1", b"0", b"a", 1]
            assert called(key, "ack", "1", "1", "e") == [1]
            assert called(key, "take", 5, "") == [b"2", b"0", b"b", b"3", b"0", b"c"]
            assert called(key, "look")[:8] == [3, 0, 0, 0, 0, 2, 0, 1]


# -- how Redis comes to have it


def piped(instance: Any, requests: str, many: int) -> int:
    """Requests in one write; how many were answered with 200."""
    with socket.create_connection(("127.0.0.1", instance.port), timeout=60) as link:
        link.sendall(requests.encode())
        answers = b""
        while answers.count(b"HTTP/1.1 ") < many:
            some = link.recv(65536)
            assert some
            answers += some
    return answers.count(b"HTTP/1.1 200")


def works(instance: Any, queue: str) -> None:
    """What is added is leased and acknowledged, and what is broadcast is heard."""
    assert instance.form(f"/q/{queue}", "value=x")[0] == 200
    told = json.loads(instance.http("GET", f"/q/{queue}?lease=1m")[2])
    path = f"/q/{queue}/{told['key'].partition(':')[2]}"
    assert instance.http("DELETE", path, None, {"If-Match": told["lease"]})[0] == 200


@pytest.mark.parametrize(
    "command", ["SCRIPT FLUSH", "FUNCTION FLUSH", "FUNCTION FLUSH ASYNC", "FLUSHALL", "FUNCTION DELETE " + NAME]
)
def test_what_redis_forgot_is_loaded_again(own: RedisServer, start: Any, command: str) -> None:
    one, other = start("", own.address), start("", own.address)
    with own.client() as link:
        for turn in range(3):
            works(one, "q")
            works(other, "q")
            link.execute_command(*command.split())
            assert [one.form("/q/many", f"value={turn}{at}")[0] for at in range(3)] == [200] * 3
        works(one, "q")
        works(other, "q")
        assert libraries(link) == {NAME}
    for log in (one.stop(), other.stop()):
        assert not troubles(log), log


def test_functions_that_are_gone_at_each_try_make_no_request_fail(own: RedisServer, start: Any) -> None:
    """Functions are flushed all the time: also between the loading of the library and the call behind it."""
    one = start("", own.address)
    works(one, "q")
    body, head = "value=x", "POST /q/line HTTP/1.1\r\nHost: localhost\r\nContent-Length: 7\r\n"
    head += "Content-Type: application/x-www-form-urlencoded\r\n\r\n"
    over = threading.Event()

    def flush() -> None:
        with own.client() as link:
            while not over.is_set():
                with link.pipeline(transaction=False) as many:
                    for _ in range(50):
                        many.function_flush()
                    many.execute()

    flushing = threading.Thread(target=flush)
    flushing.start()
    try:
        for _ in range(20):
            assert piped(one, (head + body) * 50, 50) == 50
    finally:
        over.set()
        flushing.join()
    assert json.loads(one.http("GET", "/stats/line")[2])["len"] == 1000


def test_requests_in_flight_keep_their_order_when_functions_are_gone(own: RedisServer, start: Any) -> None:
    one = start("", own.address)
    with own.client() as link:
        works(one, "q")
        for turn in range(5):
            link.function_flush()
            head = "POST /q/line HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\nContent-Length: 4\r\n\r\n"
            assert piped(one, "".join(f"{head}{turn}{at:03}" for at in range(200)), 200) == 200
        values = [json.loads(one.http("GET", "/q/line")[2])["value"] for _ in range(1000)]
    assert values == [f"{turn}{at:03}" for turn in range(5) for at in range(200)]


def test_a_redis_that_comes_back_empty_is_given_the_library(own: RedisServer, start: Any) -> None:
    one = start("", own.address)
    works(one, "q")
    own.stop()
    for path in own.folder.glob("appendonlydir/*"):
        path.unlink()
    own.start()
    until(lambda: one.form("/q/q", "value=x")[0] == 200)
    works(one, "q")
    with own.client() as link:
        assert libraries(link) == {NAME}


def test_a_replica_that_is_promoted_has_the_library(own: RedisServer, start: Any, tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / "second").mkdir()
    with own.client() as link:
        link.config_set("bind", "127.0.0.1")
        link.config_set("port", port)
    second = RedisServer(tmp_path / "second", f"--replicaof 127.0.0.1 {port}")
    try:
        one = start("", own.address)
        works(one, "q")
        assert one.form("/q/kept", "value=1")[0] == 200
        with second.client() as link:
            until(lambda: link.exists("restmq:{kept}:m"))
            own.stop()
            link.execute_command("REPLICAOF", "NO", "ONE")
            assert libraries(link) == {NAME}
            two = start("", second.address)
            works(two, "q")
            assert json.loads(two.http("GET", "/q/kept")[2])["value"] == "1"
            link.function_flush()
            works(two, "q")
    finally:
        second.stop()
        own.start()


def test_a_full_redis_that_has_no_functions_is_sent_the_script(own: RedisServer, start: Any) -> None:
    """FUNCTION LOAD needs memory; what waits can be taken all the same, and when there is room it is loaded."""
    one = start("", own.address)
    for _ in range(3):
        assert one.form("/q/q", "value=x")[0] == 200
    body, headers = b"y", {"Content-Type": "text/plain", "Idempotency-Key": "k"}
    first = one.http("POST", "/q/keyed", body, headers)
    with own.client() as link:
        link.config_set("maxmemory", 1)
        link.function_flush()
        assert json.loads(one.http("GET", "/q/q?lease=1m")[2])["value"] == "x"
        two = start("", own.address)
        for instance in (one, two):
            assert json.loads(instance.http("GET", "/q/q")[2])["value"] == "x"
            assert instance.form("/q/q", "value=x")[0] == 503
            status, told, answer = instance.http("POST", "/q/keyed", body, headers)
            assert (status, told["idempotency-replayed"], answer) == (200, "true", first[2])
        assert libraries(link) == set()
        link.config_set("maxmemory", 0)
        until(lambda: bool(instance.form("/q/q", "value=x")) and libraries(link) == {NAME})
    for log in (one.stop(), two.stop()):
        assert log.count("will not load RestMQ's functions: OOM") == 1, log


# -- with few rights


def rights() -> list[str]:
    """The user of docs/operations.md, as ACL SETUSER takes it."""
    text = (ROOT / "docs" / "operations.md").read_text("utf-8")
    return " ".join(text.partition("    user ")[2].partition("\n\n")[0].split()).split()


def test_the_rights_are_those_commands_that_are_called() -> None:
    called = set(re.findall(r"\b(?:call|look_up)\([^'()]*'([A-Z]+)'", source()))
    called |= set(re.findall(r"first and '([A-Z]+)' or '([A-Z]+)'", source())[0])
    words = {"COUNT", "CONNECT", "LIMIT", "LIBRARYNAME", "OPTIONS", "RWA", "DELETE", "LIST", "LOAD", "FUNCTION"}
    for path in (ROOT / "restmq").rglob("*.py"):
        called |= set(re.findall(r'\bb"([A-Z]{3,})"', path.read_text("utf-8"))) - words
    called |= {"SELECT", "FUNCTION|LOAD", "FUNCTION|LIST", "FUNCTION|DELETE"}  # SELECT is txredisapi's
    assert {right[1:].upper() for right in rights() if right[0] == "+"} == called


def limited(start: Any, own: RedisServer, *more: str) -> Any:
    """An instance that uses Redis as that user."""
    with own.client() as link:
        link.execute_command("ACL", "SETUSER", *rights(), *more)
    return start("[redis]\nusername = restmq\npassword = SECRET\n", own.address)


def everything(one: Any, listen: Any) -> None:
    """What touches nearly every key and command there is."""
    works(one, "q")
    assert one.form("/p/turns", "policy=roundrobin")[0] == 200
    live = [listen(one, "/c/all"), listen(one, "/c/turns"), listen(one, "/c/turns?lease=1m"), listen(one, "/tap/all")]
    for at in range(4):
        assert one.form("/q/all", f"value={at}")[0] == one.form("/q/turns", f"value={at}")[0] == 200
    assert live[0].until(lambda told: len(told.elements) == 4)
    assert listen(one, "/c/all?since=all").until(lambda told: len(told.elements) == 4)
    assert one.http("POST", "/settings/q", '{"max_deliveries": 1, "dead_ttl": "1h", "max_length": 100}')[0] == 200
    headers = {"Content-Type": "text/plain", "Idempotency-Key": "k"}
    for _ in range(2):
        assert one.http("POST", "/q/q?ttl=1h", "x", headers)[0] == 200
    assert one.form("/q/q?delay=0.2", "value=later")[0] == 200
    told = json.loads(one.http("GET", "/q/q?lease=1m")[2])
    number = told["key"].partition(":")[2]
    assert one.http("POST", f"/q/q/{number}?lease=2m", None, {"If-Match": told["lease"]})[0] == 200
    assert one.http("POST", f"/q/q/{number}?lease=0&error=x", None, {"If-Match": told["lease"]})[0] == 200
    assert one.form("/dead/q", "kick=1")[0] == 200
    until(lambda: b'"delayed": 0' in one.http("GET", "/stats/q")[2])
    for path in ("/stats/q", "/stats/", "/ledger/q", "/dead/q", "/metrics", "/settings/q", "/q/none?wait=0.1", "/"):
        assert one.http("GET", path)[0] in (200, 204, 404), path
    for state in ("waiting", "leased", "delayed", "dead", "history"):
        assert one.http("GET", f"/peek/all?state={state}")[0] == 200
    assert one.form("/control/q", "status=stop")[0] == one.form("/control/q", "status=start")[0] == 200
    assert one.http("DELETE", "/q/q")[0] == one.http("DELETE", "/q/all?forget=1")[0] == 200


def test_the_user_of_the_documents_has_all_the_rights_that_it_needs(own: RedisServer, start: Any, listen: Any) -> None:
    one = limited(start, own)
    everything(one, listen)
    with own.client() as link:
        assert link.execute_command("ACL", "LOG") == []
        assert libraries(link) == {NAME}


def test_without_the_right_to_load_functions_the_script_is_sent(own: RedisServer, start: Any, listen: Any) -> None:
    one = limited(start, own, "-function|load", "-function|list", "-function|delete")
    everything(one, listen)
    with own.client() as link:
        assert libraries(link) == set()
    assert one.stop().count("will not load RestMQ's functions: NOPERM") == 1


# -- versions beside each other


@pytest.fixture
def changed(tmp_path: Path) -> Path:
    """A checkout whose library is another one: a release before or after this."""
    place = tmp_path / "changed"
    place.mkdir()
    for name in ("restmq", "twisted", "frontend", "docs", "restmq.conf"):
        part = ROOT / name
        if part.is_dir():
            shutil.copytree(part, place / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(part, place / name)
    ack = place / "restmq" / "store" / "lua" / "ack.lua"
    ack.write_text(ack.read_text().replace("Queue.begin()", "Queue.begin()\n  Queue.count('another', 0)"))
    return place


def other_release(place: Path) -> type[Instance]:
    """Instances of that checkout."""

    class Other(Instance):
        def launch(self) -> None:
            words = ["-n", "--pidfile=", "restmq", "--port", str(self.port), "--redis", self.redis]
            words += ["--data", str(self.folder / "data"), "--config", str(self.conf)]
            with self.log.open("ab") as log:
                command = [sys.executable, "-c", TWISTD, *words]
                env = {**os.environ, "PYTHONPATH": str(place)}
                self.process: Any = subprocess.Popen(command, cwd=self.folder, env=env, stdout=log, stderr=log)

    return Other


def test_two_releases_serve_the_same_queues_while_instances_roll(
    own: RedisServer, start: Any, listen: Any, changed: Path
) -> None:
    one, two = start("", own.address), start("", own.address, other_release(changed))
    with own.client() as link:
        assert len(libraries(link)) == 2 and NAME in libraries(link)
        consumers = [listen(one, "/c/live"), listen(two, "/c/live")]
        for at in range(20):
            assert (one, two)[at % 2].form("/q/live", f"value={at}")[0] == 200
            works((one, two)[at % 2], "q")
        for consumer in consumers:
            assert consumer.until(lambda told: len(told.elements) == 20)
        one.stop()
        works(two, "q")
        link.function_flush()
        works(two, "q")
        assert NAME not in libraries(link)


def test_a_library_that_nobody_has_used_for_ten_minutes_is_told_once(own: RedisServer) -> None:
    library = Library(CLOCK)
    keys = ["alive", "doomed", "last", "libraries"]
    with own.client() as link:
        link.function_load(library.text)

        def beat(minutes: float, *words: str) -> list[bytes]:
            link.set("clock", BEGAN + int(60_000 * minutes))
            dead: int
            names: list[bytes]
            _, _, dead, *names = link.fcall(library.functions["beat"], 4, *keys, *words)
            return names[dead:]

        assert beat(0, "A", "1", "3000", "run", "old") == []
        assert beat(1, "A", "0", "600000", "run", "old") == []
        assert beat(2, "B", "1", "600000", "run", "new", "old", "stray") == []  # it has found these two
        assert beat(10, "B", "0", "600000", "run", "new") == []
        assert beat(11, "B", "0", "600000", "run", "new") == [b"old"]
        assert beat(12, "B", "0", "600000", "run", "new") == [b"stray"]
        assert beat(20, "B", "0", "600000", "run", "new") == []


def test_a_library_that_is_not_used_any_more_goes(own: RedisServer, start: Any) -> None:
    with own.client() as link:
        for name in ("restmq_0123456789ab", "restmq_cdef", "others"):
            function = f"redis.register_function('{name}_f', function() return 1 end)"
            link.function_load(f"#!lua name={name}\n{function}")
        link.zadd("restmq:{inst}:libraries", {"restmq_0123456789ab": 1})
        one = start("", own.address)
        until(lambda: "restmq_0123456789ab" not in libraries(link))
        works(one, "q")
        assert libraries(link) == {NAME, "restmq_cdef", "others"}
        # It was found, and goes when nobody has used it for ten minutes.
        until(lambda: {NAME.encode(), b"restmq_cdef"} <= set(link.zrange("restmq:{inst}:libraries", 0, -1)))
