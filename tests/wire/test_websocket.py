"""WebSocket: handshake, frames and commands without a socket; then the wire of a real instance."""

from __future__ import annotations

import json
import os
import socket
import struct
import threading
from typing import Any

import pytest
from twisted.internet.task import Clock
from websockets.exceptions import ConnectionClosed

from restmq.live.frames import accept, check_handshake, close_frame, to_frame
from restmq.live.websocket import MOST_COMMANDS, MOST_FRAMES, Asking, WebSocket
from restmq.model.errors import BadRequest, Error, Forbidden, UpgradeRequired
from tests.support.patience import PATIENCE, until
from tests.support.requests import add, stats
from tests.support.stream import Wire, as_stream, batch, desk, door, handler, ring
from tests.support.websocket import HANDSHAKE, Talker

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
FIELDS = {
    b"upgrade": b"websocket",
    b"connection": b"keep-alive, Upgrade",
    b"sec-websocket-key": KEY,
    b"sec-websocket-version": b"13",
}


def client(kind: int, payload: bytes = b"", masked: bool = True) -> bytes:
    """A frame as a client sends it, `kind` being its first byte."""
    size, bit = len(payload), 128 if masked else 0
    if size < 126:
        head = bytes([kind, bit | size])
    elif size < 1 << 16:
        head = bytes([kind, bit | 126]) + struct.pack("!H", size)
    else:
        head = bytes([kind, bit | 127]) + struct.pack("!Q", size)
    if not masked:
        return head + payload
    mask = b"\x01\x02\x03\x04"
    return head + mask + bytes(byte ^ mask[place % 4] for place, byte in enumerate(payload))


class Echo(WebSocket):
    """A consumer whose commands answer themselves."""

    async def command(self, text: bytes, asking: Asking) -> bytes:
        """The text; an error where the text asks for one."""
        if text == b"fail":
            raise RuntimeError("as the test wanted")
        return text + b"\r\n"


def opened(clock: Clock, **settings: Any) -> tuple[Echo, Wire]:
    """A consumer with an open stream."""
    consumer, wire = Echo(handler(**settings), [b"q"], clock), Wire()
    consumer.open(as_stream(wire), {b"q": (0, b"e")})
    return consumer, wire


def code(wire: Wire) -> int:
    """The code of the Close frame that was written last."""
    assert wire.parts[-1][:1] == b"\x88", wire.parts
    payload = wire.parts[-1][2:]
    return int(struct.unpack("!H", payload[:2])[0]) if payload else 0


# Frames out


@pytest.mark.parametrize("size", [0, 125, 126, 65535, 65536])
def test_a_frame_has_the_shortest_length_there_is(size: int) -> None:
    payload = b"x" * size
    head = {0: b"\x81\0", 125: b"\x81\x7d", 126: b"\x81\x7e\0\x7e", 65535: b"\x81\x7e\xff\xff"}.get(
        size, b"\x81\x7f\0\0\0\0\0\1\0\0"
    )
    assert to_frame(0x81, payload) == head + payload


def test_a_batch_is_one_text_message_an_element() -> None:
    first, second = b'{"key": "q:1", "value": "a"}', b'{"key": "q:2", "value": "b"}'
    assert WebSocket(handler(), [b"q"], Clock()).frame(batch("a", "b")) == (
        b"\x81" + bytes([len(first)]) + first + b"\x81" + bytes([len(second)]) + second
    )


def test_the_reason_of_a_close_is_cut_between_characters() -> None:
    frame = close_frame(1001, "é" * 100)
    assert len(frame) == 2 + 2 + 122
    assert frame[4:].decode("utf-8") == "é" * 61
    assert close_frame(1005) == b"\x88\0"


# The handshake (RFC 6455 section 4.2.1, the example of section 1.3)


def test_the_answer_to_the_rfcs_key_is_the_rfcs() -> None:
    assert check_handshake("HTTP/1.1", FIELDS) == KEY
    assert accept(KEY) == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


def test_the_words_of_a_handshake_compare_without_case() -> None:
    check_handshake("HTTP/1.1", {**FIELDS, b"upgrade": b"WebSocket", b"connection": b"UPGRADE"})


@pytest.mark.parametrize(
    "fields",
    [{b"upgrade": b""}, {b"connection": b"close"}, {b"sec-websocket-version": b"8"}, {b"upgrade": b"h2c"}],
)
def test_what_is_no_handshake_of_version_13_gets_426_and_the_version(fields: dict[bytes, bytes]) -> None:
    with pytest.raises(UpgradeRequired) as caught:
        check_handshake("HTTP/1.1", {**FIELDS, **fields})
    # RFC 9110 section 7.8: who sends Upgrade says so in Connection.
    assert {(b"Sec-WebSocket-Version", b"13"), (b"Connection", b"Upgrade")} <= set(caught.value.headers)


@pytest.mark.parametrize("key", [b"", b"abc", KEY[:-1], KEY + b", " + KEY, b"!" + KEY[1:], KEY * 2])
def test_a_key_that_is_not_16_bytes_in_base64_is_400(key: bytes) -> None:
    with pytest.raises(BadRequest):
        check_handshake("HTTP/1.1", {**FIELDS, b"sec-websocket-key": key})


def test_a_handshake_in_http_1_0_is_400() -> None:
    with pytest.raises(BadRequest):
        check_handshake("HTTP/1.0", FIELDS)


# Frames in


@pytest.mark.parametrize(
    ("frames", "expected"),
    [
        (client(0x81, b"\xff\xfe"), 1007),
        (client(0x01, b"\xc3") + client(0x80, b"x"), 1007),
        (client(0x81, b"hi", masked=False), 1002),
        (client(0x83), 1002),
        (client(0xC1, b"hi"), 1002),
        (client(0x09, b"x"), 1002),
        (client(0x89, b"x" * 126), 1002),
        (client(0x80, b"x"), 1002),
        (client(0x01, b"a") + client(0x81, b"b"), 1002),
        (client(0x88, b"x"), 1002),
        (client(0x88, b"\x03\xed"), 1002),
        (client(0x88, b"\x03\xe8\xff"), 1007),
        (client(0x82, b"hi"), 1003),
        (client(0x88, b"\x03\xe8bye"), 1000),
        (client(0x88, b"\x0f\xa2"), 4002),
        (client(0x88), 0),
    ],
)
def test_what_breaks_the_protocol_or_ends_it_is_answered_with_the_right_code(frames: bytes, expected: int) -> None:
    consumer, wire = opened(Clock())
    consumer.on_data(frames)
    assert code(wire) == expected
    assert desk(consumer).told == ["left"]
    assert wire.closed or expected == 1003  # 1003 waits for the client's Close


def test_bytes_may_come_one_by_one() -> None:
    consumer, wire = opened(Clock())
    for byte in client(0x01, "hé".encode()) + client(0x89, b"P") + client(0x80, b"llo"):
        consumer.on_data(bytes([byte]))
    assert wire.parts == [b"\x8a\x01P", b"\x81\x06" + "héllo".encode()]


def test_a_message_larger_than_a_form_may_be_is_1009_before_it_is_all_there() -> None:
    consumer, wire = opened(Clock(), max_value=10)
    large = client(0x01, b"x" * (30 + (64 << 10) + 1))
    consumer.on_data(large[:-100])
    assert not wire.parts
    consumer.on_data(large[-100:])
    assert code(wire) == 1009
    consumer.on_data(client(0x80, b"and more") + client(0x81, b"{}") + client(0x88, b"\x03\xf1"))
    assert code(wire) == 1009
    assert wire.closed
    assert not wire.was_cut


def test_empty_fragments_without_end_take_no_room() -> None:
    clock = Clock()
    consumer, wire = opened(clock)
    consumer.on_data(client(0x01) + client(0x00) * 10000 + client(0x80, b"x"))
    clock.pump([0] * 100)
    assert wire.parts == [b"\x81\x01x"]


def test_a_flood_of_small_frames_lets_others_have_their_turn() -> None:
    clock = Clock()
    consumer, wire = opened(clock)
    consumer.on_data(client(0x89, b"1") * 1200)
    assert (len(wire.parts), wire.reading_stopped) == (MOST_FRAMES, True)
    consumer.on_data(client(0x89, b"2") * 100)  # what was on its way when reading stopped
    assert len(wire.parts) == MOST_FRAMES
    clock.advance(0)  # all turns that are asked for
    assert (len(wire.parts), wire.reading_stopped) == (1300, False)
    consumer.on_data(client(0x89, b"3") * MOST_FRAMES)
    consumer.on_lost()
    wire.closed = True
    clock.advance(60)
    assert len(wire.parts) == 1300 + MOST_FRAMES


def test_a_client_that_pings_and_does_not_read_gets_one_answer_when_it_does() -> None:
    consumer, wire = opened(Clock())
    wire.stuck = True
    ring(consumer).broadcast.give(batch("v"))
    consumer.on_data(client(0x89, b"1") + client(0x89, b"2"))
    assert len(wire.parts) == 1
    wire.drain()
    assert wire.parts[1:] == [b"\x8a\x012"]


# Commands


def test_commands_are_answered_in_order() -> None:
    clock = Clock()
    consumer, wire = opened(clock)
    consumer.on_data(b"".join(client(0x81, b"%d" % number) for number in range(10)))
    clock.pump([0] * 10)
    assert wire.parts == [b"\x81\x01%d" % number for number in range(10)]


def test_too_many_commands_stop_the_reading_until_half_are_answered() -> None:
    clock = Clock()
    consumer, wire = opened(clock)
    wire.stuck = True
    count = 2 * MOST_COMMANDS
    consumer.on_data(b"".join(client(0x81, b"%03d" % number) for number in range(count)))
    assert wire.reading_stopped
    assert len(wire.parts) == 1  # it does not read: no more answers are made
    while wire.stuck or clock.getDelayedCalls()[0].getTime() <= clock.seconds():
        wire.drain()
        clock.advance(0)
    assert not wire.reading_stopped
    assert wire.data == b"".join(b"\x81\x03%03d" % number for number in range(count))


def test_large_commands_stop_the_reading_before_there_are_many() -> None:
    consumer, wire = opened(Clock())
    wire.stuck = True
    large = b'"' + b"x" * 40_000 + b'"'
    for _ in range(5):
        if not wire.reading_stopped:
            consumer.on_data(client(0x81, large))
    assert wire.reading_stopped
    assert len(wire.parts) == 1


def test_answers_wait_for_a_client_that_does_not_read_up_to_a_bound(start: Any, queue: str) -> None:
    one = start("[live]\nmax_waiting = 64KiB\n")
    with socket.socket() as link:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        link.connect(("127.0.0.1", one.port))
        link.sendall(f"GET /ws/{queue}.heard HTTP/1.1\r\nHost: localhost\r\n{HANDSHAKE}\r\n".encode())
        for number in range(300):
            link.sendall(client(0x81, json.dumps({"cmd": "take", "queue": queue, "wait": 60, "id": number}).encode()))
        until(lambda: stats(one, queue)["waiters"] == 300)
        for _ in range(300):
            add(one, queue, "x" * 50_000)
        until(lambda: stats(one, queue)["waiters"] == 0)
        found = stats(one, queue)
        assert found["taken"] + found["len"] == 300
        assert found["taken"] * 50_000 < 9 << 20  # what the kernel took, and one more than is allowed to wait
        link.settimeout(60)
        answers = b""
        while answers.count(b'"id"') < 300:  # all are answered: those that got nothing say so
            data = link.recv(1 << 18)
            assert data, "it was ended"
            answers += data
        assert answers.count(b'"key"') == found["taken"]
        assert answers.count(b'"empty queue"') == found["len"]


def test_a_command_that_fails_in_the_server_is_1011() -> None:
    consumer, wire = opened(Clock())
    consumer.on_data(client(0x81, b"fail"))
    assert code(wire) == 1011


def test_what_a_client_did_wrong_is_an_answer_and_the_socket_stays() -> None:
    class Refusing(WebSocket):
        async def command(self, text: bytes, asking: Asking) -> bytes:
            try:
                raise Forbidden("not you")
            except Error as problem:
                return problem.render()

    consumer, wire = Refusing(handler(), [b"q"], Clock()), Wire()
    consumer.open(as_stream(wire), {})
    consumer.on_data(client(0x81, b"{}"))
    assert b'{"error": "not you"' in wire.parts[0]
    assert not wire.parts[0].endswith(b"\r\n")
    assert not wire.closed


# Heartbeats and ends


def test_each_heartbeat_pings_and_who_answers_stays() -> None:
    clock = Clock()
    consumer, wire = opened(clock)
    for _ in range(10):
        clock.advance(15)
        assert wire.parts[-1] == b"\x89\x00"
        consumer.on_data(client(0x8A))
    assert len(wire.parts) == 10
    assert not wire.closed


def test_who_answers_no_ping_for_the_stall_time_is_gone() -> None:
    clock = Clock()
    consumer, wire = opened(clock)
    clock.pump([15] * 4)
    assert wire.parts == [b"\x89\x00"] * 4
    clock.advance(15)
    assert code(wire) == 1001
    assert desk(consumer).told == ["left"]
    wire.stuck, wire.unsent = True, 4
    clock.advance(2)
    assert wire.was_cut


def test_who_has_more_to_read_than_pings_may_answer_them_late() -> None:
    clock = Clock()
    consumer, wire = opened(clock)
    for _ in range(20):  # it reads slowly what lies in the kernels' buffers before the pings
        clock.advance(15)
        ring(consumer).broadcast.give(batch("v"))
    assert not wire.closed
    clock.pump([15] * 4)
    assert not wire.closed
    clock.pump([15] * 2)
    assert code(wire) == 1001


def test_the_end_of_an_instance_is_1001_and_waits_for_the_clients_answer() -> None:
    clock = Clock()
    consumer, wire = opened(clock)
    consumer.close("the server is ending")
    assert code(wire) == 1001
    assert not wire.closed
    consumer.on_data(client(0x88, b"\x03\xe9"))
    assert wire.closed
    assert not wire.was_cut
    wire.on_lost()
    assert clock.getDelayedCalls() == []


def test_reloaded_rules_that_forbid_it_close_it_as_a_violation_of_policy() -> None:
    clock = Clock()
    consumer, wire = opened(clock)
    door(consumer).generation += 1
    door(consumer).refusal = Forbidden("127.0.0.1 is not let in")
    clock.advance(15)
    assert code(wire) == 1008


def test_random_bytes_never_raise() -> None:
    for _ in range(200):
        consumer, wire = opened(Clock())
        consumer.on_data(os.urandom(200))
        assert consumer.ended == (b"\x88" in wire.data) or not consumer.ended


# The wire of a real instance


def shake(instance: Any, *replaced: str, headers: str = "", after: bytes = b"", until: bytes = b"\r\n\r\n") -> bytes:
    """What answers a handshake in which some words were replaced by others, up to `until`."""
    request = f"GET /ws/raw HTTP/1.1\r\nHost: 127.0.0.1:{instance.port}\r\n{HANDSHAKE}{headers}\r\n"
    for old, new in zip(replaced[::2], replaced[1::2]):
        assert old in request
        request = request.replace(old, new, 1)
    answer = b""
    with socket.create_connection(("127.0.0.1", instance.port), timeout=PATIENCE) as raw:
        raw.sendall(request.encode("latin-1") + after)
        while until not in answer:
            data = raw.recv(4096)
            if not data:
                break
            answer += data
    return answer


def test_elements_come_as_text_messages_and_commands_are_answered_on_the_same_socket(instance: Any, queue: str) -> None:
    with Talker(instance.port, f"/ws/{queue}") as ws:
        ws.send(json.dumps({"cmd": "add", "queue": f"{queue}.todo", "value": "oi"}))
        assert ws.recv() == f'{{"queue": "{queue}.todo", "value": "oi", "key": "{queue}.todo:1"}}'
        ws.send(json.dumps({"cmd": "take", "queue": f"{queue}.todo", "id": 7}))
        assert json.loads(ws.recv()) == {
            "queue": f"{queue}.todo",
            "value": "oi",
            "key": f"{queue}.todo:1",
            "id": 7,
        }
        ws.send(json.dumps({"cmd": "add", "queue": queue, "value": "é"}))
        assert {ws.recv(), ws.recv()} == {
            f'{{"queue": "{queue}", "value": "\\u00e9", "key": "{queue}:1"}}',
            f'{{"key": "{queue}:1", "value": "\\u00e9"}}',
        }
        ws.send("no json")
        assert json.loads(ws.recv())["status"] == 400
        ws.send(json.dumps({"cmd": "get", "queue": f"{queue}.never"}))
        assert ws.recv() == '{"error": "Null resultset"}'


def test_many_commands_at_once_are_answered_in_order(instance: Any, queue: str) -> None:
    with Talker(instance.port, f"/ws/{queue}.other") as ws:
        for number in range(500):
            ws.send(json.dumps({"cmd": "add", "queue": queue, "value": str(number)}))
        answers = [json.loads(ws.recv()) for _ in range(500)]
        assert [answer["value"] for answer in answers] == [str(number) for number in range(500)]
        assert [answer["key"] for answer in answers] == [f"{queue}:{number}" for number in range(1, 501)]


def test_fragments_pings_and_large_messages_pass(instance: Any, queue: str) -> None:
    with Talker(instance.port, f"/ws/{queue}") as ws:
        value = "é" * 100000
        ws.send_fragments([f'{{"cmd": "add", "queue": "{queue}",', f' "value": "{value}"', "}"])
        assert {json.loads(ws.recv())["value"], json.loads(ws.recv())["value"]} == {value}
        ws.ping(b"abc")
        assert ws.close(4002) == 4002


@pytest.mark.parametrize(("message", "expected"), [(b"binary", 1003), ("x" * (3 * (1 << 20) + (64 << 10) + 1), 1009)])
def test_messages_that_no_command_can_be_end_the_socket(instance: Any, queue: str, message: Any, expected: int) -> None:
    with Talker(instance.port, f"/ws/{queue}") as ws:
        ws.send(message)  # large ones are refused half-way
        with pytest.raises(ConnectionClosed) as caught:
            ws.recv()
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == expected


def test_a_frame_in_the_same_segment_as_the_handshake_is_heard(instance: Any) -> None:
    answer = shake(instance, after=client(0x89, b"early"), until=b"early")
    head, _, rest = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 ")
    assert b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in head
    assert b"Content-Length" not in head
    assert b"Sec-WebSocket-Extensions" not in head
    assert rest == b"\x8a\x05early"


@pytest.mark.parametrize(
    ("old", "new", "status"),
    [
        ("GET", "GET", b"101"),
        ("Connection: keep-alive, Upgrade", "Connection: upgrade", b"101"),
        ("Upgrade: websocket\r\n", "", b"426"),
        ("Version: 13", "Version: 8", b"426"),
        ("Sec-WebSocket-Key", "X-Key", b"400"),
        (KEY.decode(), "abc", b"400"),
        ("HTTP/1.1", "HTTP/1.0", b"400"),
        ("GET", "POST", b"405"),
        ("/ws/raw", "/ws/raw,raw", b"400"),
        ("/ws/raw", "/ws/raw?sicne=0", b"400"),
    ],
)
def test_a_handshake_is_taken_or_refused_as_plain_http(instance: Any, old: str, new: str, status: bytes) -> None:
    answer = shake(instance, old, new)
    assert answer[9:12] == status
    assert (b"Sec-WebSocket-Version: 13\r\n" in answer) == (status == b"426")


def test_a_page_of_another_origin_may_not_open_a_socket(instance: Any) -> None:
    assert shake(instance, headers=f"Origin: http://127.0.0.1:{instance.port}\r\n")[9:12] == b"101"
    assert shake(instance, headers="Origin: http://evil.example\r\n")[9:12] == b"403"


def test_the_auth_cookie_opens_a_socket_with_an_origin_that_passes(start: Any) -> None:
    one = start("[websocket:consumer]\nusername = me\npassword = secret\n")
    cookie, origin = "Cookie: auth=me:secret\r\n", f"Origin: http://127.0.0.1:{one.port}\r\n"
    assert shake(one)[9:12] == b"401"
    assert shake(one, headers="Authorization: Basic bWU6c2VjcmV0\r\n")[9:12] == b"101"
    assert shake(one, headers=cookie)[9:12] == b"403"
    assert shake(one, headers=cookie + origin)[9:12] == b"101"


def test_a_command_needs_the_section_of_its_command(start: Any, queue: str) -> None:
    one = start("[rest:producer]\nhosts_deny = all\n")
    with Talker(one.port, f"/ws/{queue}") as ws:
        ws.send(json.dumps({"cmd": "add", "queue": queue, "value": "v"}))
        assert json.loads(ws.recv())["status"] == 403
        ws.send(json.dumps({"cmd": "take", "queue": queue}))
        assert json.loads(ws.recv()) == {"error": "empty queue"}


def test_a_peer_that_does_not_answer_pings_is_found_and_one_that_does_stays(start: Any, queue: str) -> None:
    one = start("[live]\nheartbeat = 2s\nstall = 4s\n")
    with Talker(one.port, f"/ws/{queue}") as alive:
        answers: list[bytes] = []
        deaf = threading.Thread(target=lambda: answers.append(shake(one, until=b"the end of it")))
        deaf.start()
        while deaf.is_alive():
            alive.poll()
        frames = answers[0].partition(b"\r\n\r\n")[2]
        assert frames.startswith(b"\x89\x00\x89\x00\x88")
        assert frames[6:8] == b"\x03\xe9"
        alive.send(json.dumps({"cmd": "get", "queue": queue}))
        assert alive.recv() == '{"error": "Null resultset"}'


def test_the_end_of_an_instance_is_told_to_its_sockets(start: Any, queue: str) -> None:
    one = start()
    with Talker(one.port, f"/ws/{queue}") as ws:
        one.stop()
        with pytest.raises(ConnectionClosed) as caught:
            ws.recv()
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 1001
