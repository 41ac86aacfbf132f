"""Comet and SSE: frames and slow consumers without a socket; then the wire of a real instance."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from twisted.internet.task import Clock
from twisted.logger import formatEvent, globalLogPublisher

from restmq.http.headers import fields
from restmq.live.comet import Comet
from restmq.live.consumer import Live, documents
from restmq.live.sse import RETRY_ENDING, Sse, comment
from restmq.model.errors import Forbidden
from tests.support.fanout import Plan, run
from tests.support.observer import Observer
from tests.support.patience import until
from tests.support.redis_server import RedisServer
from tests.support.requests import TEXT, add, batch_add, stats, texts
from tests.support.stream import Wire, as_stream, batch, handler, ring
from tests.support.websocket import HANDSHAKE, Talker

START = {b"q": (0, b"e")}


def opened(kind: Any, clock: Clock, queues: tuple[bytes, ...] = (b"q",), **settings: Any) -> tuple[Any, Wire]:
    """A consumer with an open stream."""
    consumer, wire = kind(handler(**settings), queues, clock), Wire()
    consumer.open(as_stream(wire), dict.fromkeys(queues, (0, b"e")))
    return consumer, wire


def give(*consumers: Live, **parts: Any) -> None:
    """One broadcast batch for all of them, through the ring they would really be in."""
    ring(*consumers).broadcast.give(batch("v", **parts))


@pytest.fixture
def logged() -> Any:
    """The lines that were logged."""
    lines: list[str] = []
    keep = Observer(lambda event: lines.append(formatEvent(event)))
    globalLogPublisher.addObserver(keep)
    yield lines
    globalLogPublisher.removeObserver(keep)


# Frames


def test_an_object_has_the_seeds_fields_order_and_spacing() -> None:
    assert documents(batch("my element", number=7)) == ['{"key": "q:7", "value": "my element"}']


@pytest.mark.parametrize("value", ["", "007", 'a"b\\c', "é\u2028\U0001f600", "\r\n", "\x00", "</script>"])
def test_any_value_comes_back_from_its_object_as_it_was_and_the_object_is_ascii(value: str) -> None:
    (document,) = documents(batch(value, queue="ä:b"))
    assert document.isascii()
    assert "\n" not in document
    assert "\r" not in document
    assert json.loads(document) == {"key": "ä:b:1", "value": value}
    assert json.dumps(json.loads(document)) == document


def test_comet_is_one_object_and_crlf_an_element() -> None:
    comet = Comet(handler(), [b"q"], Clock())
    assert comet.frame(batch("a", "b", first=0, number=3)) == (
        b'{"key": "q:3", "value": "a"}\r\n{"key": "q:4", "value": "b"}\r\n'
    )


def test_sse_gives_each_broadcast_element_its_position() -> None:
    sse = Sse(handler(), [b"q"], Clock())
    assert sse.frame(batch("a", "b", first=8, number=3)) == (
        b'id: 8@e\ndata: {"key": "q:3", "value": "a"}\n\nid: 9@e\ndata: {"key": "q:4", "value": "b"}\n\n'
    )


def test_sse_leaves_the_id_out_for_roundrobin() -> None:
    sse = Sse(handler(), [b"q"], Clock())
    assert sse.frame(batch("a", first=0)) == b'data: {"key": "q:1", "value": "a"}\n\n'


def test_sse_opens_with_the_pause_before_a_reconnect_and_its_id() -> None:
    wire = Wire()
    Sse(handler(), [b"q"], Clock()).open(as_stream(wire), {b"q": (5, b"e")})
    assert wire.data == b"retry: 2000\nid: 5@e\n"


def test_sse_ends_the_opening_for_a_browser_which_else_would_not_keep_its_id() -> None:
    wire, asked = Wire(), handler()
    asked.request.fields = fields(b"Host: a\r\nPragma: No-Cache\r\n", True)
    Sse(asked, [b"q"], Clock()).open(as_stream(wire), {b"q": (5, b"e")})
    assert wire.data == b"retry: 2000\nid: 5@e\n\n"


def test_sse_of_several_queues_has_one_word_for_each_in_the_order_asked() -> None:
    sse, wire = Sse(handler(), [b"b", b"a"], Clock()), Wire()
    sse.open(as_stream(wire), {b"a": (1, b"x"), b"b": (2, b"y")})
    assert wire.data == b"retry: 2000\nid: 2@y,1@x\n"
    assert sse.frame(batch("v", queue="a", first=2, epoch=b"x")).startswith(b"id: 2@y,2@x\n")
    assert sse.frame(batch("v", queue="b", first=3, epoch=b"y")).startswith(b"id: 3@y,2@x\n")
    assert b"id:" not in sse.frame(batch("v", queue="b", first=0, epoch=b"y"))


def test_what_came_early_on_several_queues_lies_between_the_ids_before_and_after_it() -> None:
    sse, wire = Sse(handler(), [b"a", b"b"], Clock()), Wire()
    ring(sse).broadcast.give(batch("v", queue="a", first=6, epoch=b"x"))
    assert sse.unsent == sse.written > 0
    sse.open(as_stream(wire), {b"a": (6, b"x"), b"b": (2, b"y")})
    assert wire.data == (b'retry: 2000\nid: 5@x,2@y\ndata: {"key": "a:1", "value": "v"}\n\nid: 6@x,2@y\n')
    assert sse.unsent == 0
    assert sse.written == 36


def test_a_comment_is_one_line_whatever_the_reason_says() -> None:
    assert comment("away\r\ndata: x", 2000) == b": away data: x\nretry: 2000\n"


def test_consumers_of_one_framing_share_the_same_bytes() -> None:
    one, two = (opened(Sse, Clock()) for _ in range(2))
    other = opened(Comet, Clock())
    give(one[0], two[0], other[0])
    assert one[1].parts[-1] is two[1].parts[-1]
    assert one[1].parts[-1] != other[1].parts[-1]


# Delivery and back-pressure


def test_what_comes_before_the_stream_is_open_waits_and_goes_out_first() -> None:
    comet, wire = Comet(handler(), [b"q"], Clock()), Wire()
    give(comet)
    assert comet.unsent == comet.written == 30
    comet.open(as_stream(wire), START)
    assert wire.data == b'{"key": "q:1", "value": "v"}\r\n'
    assert (comet.written, comet.unsent) == (30, 0)


def test_a_full_stream_is_told_and_when_it_drains_too() -> None:
    comet, wire = opened(Comet, Clock())
    wire.stuck = True
    give(comet)
    assert comet.full
    assert comet.services.delivery.told == ["full"]
    wire.drain()
    assert not comet.full
    assert comet.services.delivery.told == ["full", "drained"]


def test_who_has_more_than_the_bound_waiting_falls_behind_and_is_given_no_more() -> None:
    comet, wire = opened(Comet, Clock(), max_waiting=100)
    other, beside = opened(Comet, Clock(), max_waiting=100)
    all_of_them = ring(comet, other)
    wire.stuck = True
    behind = [all_of_them.broadcast.give(batch("v", first=place)) for place in range(1, 21)]
    assert [found for found in behind if found] == [[(comet, 4)]]
    assert len(wire.parts) == 4 and not wire.closed
    assert len(beside.parts) == 20
    assert all_of_them.broadcast.behind == 1
    assert all_of_them.broadcast.confirmed(0) == 20
    wire.drain()
    all_of_them.broadcast.end_history(comet, 20)
    all_of_them.broadcast.give(batch("w", first=21))
    assert b'"w"' in wire.data


def test_one_value_larger_than_the_bound_does_not_drop_a_consumer_that_reads() -> None:
    comet, wire = opened(Comet, Clock(), max_waiting=10)
    wire.stuck = True
    give(comet)
    assert not wire.closed
    wire.drain()
    give(comet)
    assert not wire.closed
    assert len(wire.parts) == 2


def test_who_takes_nothing_for_the_stall_time_is_dropped(logged: list[str]) -> None:
    clock = Clock()
    comet, wire = opened(Comet, clock, heartbeat=15, stall=60)
    wire.stuck = True
    give(comet)
    clock.pump([15] * 4)
    assert not wire.was_cut
    clock.advance(15)
    assert wire.was_cut
    assert "none of 30 waiting bytes moved for 60 s" in logged[-1]


def test_who_takes_a_little_now_and_then_stays() -> None:
    clock = Clock()
    comet, wire = opened(Comet, clock, heartbeat=15, stall=60)
    wire.stuck = True
    give(comet)
    for _ in range(20):
        clock.advance(45)
        wire.drain(1)
    assert not wire.closed


def test_a_stall_shorter_than_the_heartbeat_is_seen_in_time() -> None:
    clock = Clock()
    comet, wire = opened(Comet, clock, heartbeat=15, stall=1)
    wire.stuck = True
    give(comet)
    clock.pump([1, 1])
    assert wire.was_cut


def test_a_process_that_slept_does_not_drop_its_consumers() -> None:
    clock = Clock()
    comet, wire = opened(Comet, clock, heartbeat=15, stall=60)
    wire.stuck = True
    give(comet)
    clock.advance(15)
    clock.rightNow += 3600  # stopped, then continued: one beat is due, not two hundred
    clock.advance(0)
    assert not wire.closed


# Heartbeats and ends


@pytest.mark.parametrize(("kind", "sign"), [(Comet, b"\r\n"), (Sse, b":\n")])
def test_a_heartbeat_comes_each_interval_and_only_when_nothing_waits(kind: type[Live], sign: bytes) -> None:
    clock = Clock()
    consumer, wire = opened(kind, clock)
    clock.pump([15, 15])
    assert wire.parts[-2:] == [sign, sign]
    wire.stuck = True
    give(consumer)
    before = len(wire.parts)
    clock.advance(15)
    assert len(wire.parts) == before


def test_a_consumer_that_the_reloaded_rules_forbid_is_closed_at_the_next_heartbeat() -> None:
    clock = Clock()
    sse, wire = opened(Sse, clock)
    sse.server.acl.generation += 1
    clock.advance(15)
    assert not wire.closed
    sse.server.acl.generation += 1
    sse.server.acl.refusal = Forbidden("127.0.0.1 is not let in")
    clock.advance(15)
    assert wire.closed
    assert b": 127.0.0.1 is not let in\n" in wire.data
    assert sse.services.delivery.told == ["left"]


def test_the_end_of_an_instance_tells_an_event_source_when_to_come_again() -> None:
    sse, wire = opened(Sse, Clock())
    sse.close("the server is ending")
    assert wire.closed
    assert not wire.was_cut
    assert wire.data.endswith(b": the server is ending\nretry: %d\n" % RETRY_ENDING)


def test_closing_one_that_has_not_taken_all_cuts_it_for_the_rest_goes_to_others() -> None:
    comet, wire = opened(Comet, Clock())
    wire.stuck = True
    give(comet)
    comet.close("the server is ending")
    assert wire.was_cut
    assert comet.unsent == 30


def test_after_the_end_nothing_is_written_and_no_timer_is_left() -> None:
    clock = Clock()
    comet, wire = opened(Comet, clock)
    wire.on_lost()
    give(comet)
    comet.close("again")
    assert wire.data == b""
    assert clock.getDelayedCalls() == []
    assert comet.services.delivery.told == ["left"]


def test_a_stream_whose_head_cannot_be_written_leaves_nothing_behind_and_the_error_goes_on() -> None:
    clock, asked = Clock(), handler()
    comet = Comet(asked, [b"q"], clock)

    def head() -> Any:
        assert asked.services.delivery.told == ["joined"]
        raise OSError("it has no such option")

    with pytest.raises(OSError, match="it has no such option"):
        asyncio.run(comet.begin(asked, head))
    assert asked.services.delivery.told == ["joined", "left"]
    assert comet.ended
    assert clock.getDelayedCalls() == []


def test_a_stream_whose_first_words_cannot_be_written_leaves_nothing_behind_either() -> None:
    clock, asked, wire = Clock(), handler(), Wire()
    wire.closed = True
    sse = Sse(asked, [b"q"], clock)
    with pytest.raises(AssertionError):
        asyncio.run(sse.begin(asked, lambda: as_stream(wire)))
    assert asked.services.delivery.told == ["joined", "left"]
    assert clock.getDelayedCalls() == []


# The wire of a real instance


def test_comet_answers_as_a_stream_that_nothing_on_the_way_holds_back(instance: Any, listen: Any, queue: str) -> None:
    comet = listen(instance, f"/c/{queue}")
    assert comet.status == 200
    assert comet.headers["content-type"] == "application/x-ndjson"
    assert comet.headers["cache-control"] == "no-store, no-transform"
    assert comet.headers["x-accel-buffering"] == "no"
    assert comet.headers["x-content-type-options"] == "nosniff"
    assert comet.headers["transfer-encoding"] == "chunked"


def test_a_broadcast_element_comes_to_every_consumer_and_leaves_the_queue(
    instance: Any, listen: Any, queue: str
) -> None:
    consumers = [listen(instance, f"/{kind}/{queue}") for kind in ("c", "c", "sse")]
    add(instance, queue, "one", "two")
    for consumer in consumers:
        consumer.until(lambda c: len(c.objects) == 2)
        assert consumer.objects == [
            {"key": f"{queue}:1", "value": "one"},
            {"key": f"{queue}:2", "value": "two"},
        ]
    assert consumers[0].body == (
        f'{{"key": "{queue}:1", "value": "one"}}\r\n{{"key": "{queue}:2", "value": "two"}}\r\n'.encode()
    )
    assert instance.http("GET", f"/q/{queue}")[0] == 204


def test_sse_ids_count_each_broadcast_delivery_from_the_place_it_opened_with(
    instance: Any, listen: Any, queue: str
) -> None:
    first = listen(instance, f"/sse/{queue}")
    assert first.headers["content-type"] == "text/event-stream"
    add(instance, queue, *texts(3))
    first.until(lambda c: len(c.objects) == 3)
    places = [word.split("@") for word in first.ids]
    assert [int(place) for place, _ in places] == [0, 1, 2, 3]
    assert len({epoch for _, epoch in places}) == 1
    second = listen(instance, f"/sse/{queue}").until(lambda c: c.ids)
    assert second.ids == first.ids[-1:]


def test_one_id_names_the_places_of_several_queues(instance: Any, listen: Any, queue: str) -> None:
    both = listen(instance, f"/sse/{queue}.east,{queue}.west").until(lambda c: c.ids)
    add(instance, f"{queue}.west", "w")
    both.until(lambda c: len(c.objects) == 1)
    add(instance, f"{queue}.east", "e")
    both.until(lambda c: len(c.objects) == 2)
    assert [[int(word.split("@")[0]) for word in line.split(",")] for line in both.ids] == [
        [0, 0],
        [0, 1],
        [1, 1],
    ]


def test_what_waited_comes_first_and_in_order(instance: Any, listen: Any, queue: str) -> None:
    add(instance, queue, *texts(20))
    comet = listen(instance, f"/c/{queue}").until(lambda c: len(c.objects) == 20)
    add(instance, queue, "new")
    comet.until(lambda c: len(c.objects) == 21)
    assert comet.values == [*texts(20), "new"]
    assert instance.http("GET", f"/q/{queue}")[0] == 204


def test_roundrobin_is_a_strict_turn_over_all_transports(instance: Any, listen: Any, queue: str) -> None:
    assert instance.form(f"/p/{queue}", "policy=roundrobin")[0] == 200
    targets = [f"/c/{queue}", f"/sse/{queue}", f"/c/{queue},{queue}.x", f"/sse/{queue}.x,{queue}"]
    consumers = [listen(instance, target) for target in targets]
    with Talker(instance.port, f"/ws/{queue}") as ws:
        add(instance, queue, *texts(40))
        numbers = [[int(json.loads(ws.recv())["key"].rpartition(":")[2]) for _ in range(8)]]
        for consumer in consumers:
            consumer.until(lambda c: len(c.objects) == 8)
            numbers.append([int(one["key"].rpartition(":")[2]) for one in consumer.objects])
    assert sorted(number for each in numbers for number in each) == list(range(1, 41))
    for each in numbers:
        assert each == list(range(each[0], 41, 5))
    assert len(consumers[1].ids) == 1
    assert consumers[1].body.count(b"data:") == 8


def test_stop_keeps_elements_and_start_lets_them_go_on(instance: Any, listen: Any, queue: str) -> None:
    comet = listen(instance, f"/c/{queue}")
    assert instance.form(f"/control/{queue}", "status=stop")[0] == 200
    add(instance, queue, "kept")
    assert comet.quiet().objects == []
    assert instance.form(f"/control/{queue}", "status=start")[0] == 200
    comet.until(lambda c: c.objects)
    assert comet.values == ["kept"]


def test_a_hundred_queues_on_one_connection(instance: Any, listen: Any, queue: str) -> None:
    names = [f"{queue}.{number}" for number in range(100)]
    comet = listen(instance, "/c/" + ",".join(names))
    for name in names[::-7]:
        add(instance, name, name)
        comet.until(lambda c, name=name: name in c.values)
    assert comet.values == names[::-7]


@pytest.mark.parametrize(
    "target",
    [
        "/c/a,a",
        "/c/a,%61",
        "/c/a%2Cb",
        "/c/a,,b",
        "/c/a%2Fb",
        "/c/" + ",".join(f"n{number}" for number in range(101)),
        "/c/a?wiat=3",
        "/sse/a?callback=f",
        "/sse/a%00",
    ],
)
def test_names_and_options_that_are_not_right_are_refused(instance: Any, listen: Any, target: str) -> None:
    answer = listen(instance, target)
    assert answer.status == 400
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("target", "hint"),
    [
        ("/c/a?lastEventId=1@e", "here since=ID gives the last ID"),
        ("/c/a?lastEventID=1@e", "here since=ID gives the last ID"),
        ("/c/a?lastEvnetId=1@e", "here since=ID gives the last ID"),
        ("/sse/a?lastEvnetId=1@e", "did you mean 'lastEventId'?"),
        ("/sse/a?sinec=1@e", "did you mean 'since'?"),
        ("/c/a?wiat=3", "'wiat' is not known"),
        ("/c/a?since=now,now", "2 words for 1 queue:"),
        ("/c/a,b,c?since=now,now", "2 words for 3 queues:"),
    ],
)
def test_the_error_of_an_option_names_what_was_meant(instance: Any, target: str, hint: str) -> None:
    status, _, body = instance.http("GET", target)
    assert status == 400 and hint in json.loads(body)["error"]


@pytest.mark.parametrize("target", ["/c/a", "/sse/a", "/ws/a"])
@pytest.mark.parametrize("method", ["HEAD", "POST", "DELETE"])
def test_a_live_address_takes_only_get(instance: Any, listen: Any, target: str, method: str) -> None:
    answer = listen(instance, target, method=method, headers="Content-Length: 0\r\n")
    assert answer.status == 405
    assert answer.headers["allow"] == "GET, OPTIONS"


def test_an_old_client_gets_a_stream_without_chunks(instance: Any, listen: Any, queue: str) -> None:
    comet = listen(instance, f"/c/{queue}", version="1.0")
    assert "transfer-encoding" not in comet.headers
    add(instance, queue, "v")
    comet.until(lambda c: c.objects)
    assert comet.body == f'{{"key": "{queue}:1", "value": "v"}}\r\n'.encode()


def test_a_consumer_that_leaves_gives_what_it_was_not_sent_to_the_next(instance: Any, listen: Any, queue: str) -> None:
    assert instance.form(f"/p/{queue}", "policy=roundrobin")[0] == 200
    lazy, busy = listen(instance, f"/c/{queue}", buffer=4096), listen(instance, f"/c/{queue}")
    count, value = 400, "x" * 50000
    for _ in range(count):
        add(instance, queue, value)
        busy.read(0.001)
    lazy.quiet(0.1)  # something of what its kernel holds; then it goes
    lazy.close()
    busy.everything()
    got, theirs = {one["key"] for one in lazy.objects}, [one["key"] for one in busy.objects]
    assert got
    assert len(theirs) == len(set(theirs))
    assert not got & set(theirs)
    # What is missing was in kernels' buffers, a few MB; its share was ten, and the rest went on.
    assert len(theirs) > count * 0.6
    assert instance.http("GET", f"/q/{queue}")[0] == 204


def test_a_consumer_that_takes_nothing_is_dropped_and_disturbs_nobody(start: Any, listen: Any, queue: str) -> None:
    one = start("[live]\nmax_waiting = 64KiB\nstall = 1s\n")
    slow, fast = listen(one, f"/c/{queue}", buffer=4096), listen(one, f"/c/{queue}")
    count, value = 300, "x" * 40000
    for _ in range(count):
        add(one, queue, value)
        fast.read(0.001)
    fast.until(lambda c: c.body.count(f'"key": "{queue}:'.encode()) >= count and c.body.endswith(b"\r\n"), 60)
    assert [element["key"] for element in fast.objects] == [f"{queue}:{n}" for n in range(1, count + 1)]
    until(lambda: stats(one, queue)["consumers"] == 1)
    slow.until_end(60)
    assert len(slow.objects) < count
    assert one.log.read_text().count("does not read: dropped") == 1


def test_heartbeats_come_while_nothing_else_does(start: Any, listen: Any, queue: str) -> None:
    one = start("[live]\nheartbeat = 200ms\n")
    comet, sse = listen(one, f"/c/{queue}"), listen(one, f"/sse/{queue}")
    comet.until(lambda c: len(c.body) >= 6)
    sse.until(lambda c: c.body.count(b"\n:\n:\n") >= 1)
    assert comet.body == b"\r\n" * comet.chunks.count


def test_access_rules_hold_for_streams_and_after_a_reload_for_open_ones_too(
    start: Any, listen: Any, queue: str
) -> None:
    often, none = "[live]\nheartbeat = 200ms\n", "[comet:consumer]\nhosts_deny = all\n"
    one = start(often + none + "[sse:consumer]\nhosts_allow = all\n")
    assert listen(one, f"/c/{queue}").status == 403
    sse = listen(one, f"/sse/{queue}")
    assert sse.status == 200
    tap = listen(one, f"/sse/{queue}?tap=1")
    one.conf.write_text(often + "[rest:consumer]\nhosts_deny = all\n[sse:consumer]\nhosts_allow = all\n")
    tap.until_end()
    assert b": 127.0.0.1 is not let in" in tap.body
    assert sse.quiet().ended is False
    one.conf.write_text(often + none)  # without a section of its own, sse follows comet
    sse.until_end()
    assert b"\nretry: " in sse.body
    assert listen(one, f"/sse/{queue}").status == 403


def test_a_password_is_asked_for_and_taken(start: Any, listen: Any) -> None:
    one = start("[comet:consumer]\nusername = me\npassword = secret\n")
    refused = listen(one, "/c/a")
    assert refused.status == 401
    assert refused.headers["www-authenticate"].startswith("Basic ")
    assert listen(one, "/c/a", headers="Authorization: Basic bWU6c2VjcmV0\r\n").status == 200


def test_a_queue_that_was_forgotten_while_somebody_listened_leaves_nothing_when_nobody_does(
    own: RedisServer, start: Any, listen: Any, queue: str
) -> None:
    one = start("", own.address)
    listener = listen(one, f"/c/{queue}")
    add(one, queue, "x")
    listener.until(lambda c: c.elements)
    assert one.http("DELETE", f"/q/{queue}?forget=1")[0] == 200
    listener.close()
    with own.client() as store:
        until(lambda: not store.keys(f"restmq:{{{queue}}}:*"), lambda: store.keys("*"))


CAP = "[server]\nxheaders = true\ngrace = 0\n[live]\nper_client = 2\n"


def client(address: str) -> str:
    """The header line by which a proxy names its client."""
    return f"X-Real-IP: {address}\r\n"


def test_a_client_has_so_many_live_consumers_of_all_kinds_and_no_more(start: Any, listen: Any, queue: str) -> None:
    one, me = start(CAP), client("10.0.0.7")
    first = listen(one, f"/c/{queue}", headers=me)
    assert listen(one, f"/sse/{queue},{queue}.other?tap=1", headers=me).status == 200
    for target in (f"/c/{queue}", f"/ws/{queue}.third"):
        refused = listen(one, target, headers=me + (HANDSHAKE if "/ws" in target else ""))
        told = json.loads(refused.body)
        assert (refused.status, told["type"], refused.headers["retry-after"]) == (429, "urn:restmq:too-many", "5")
        assert "10.0.0.7 has 2 live consumers" in told["error"] and "per_client" in told["error"]
    patient = listen(one, f"/sse/{queue}", headers=me).until_end()
    assert (patient.status, patient.headers["content-type"]) == (200, "text/event-stream")
    assert patient.body.startswith(b": 10.0.0.7 has 2 live consumers") and patient.body.endswith(b"retry: 2000\n")
    other = listen(one, f"/ws/{queue}", headers=client("10.0.0.8") + HANDSHAKE)
    assert other.status == 101
    add(one, queue, "x")  # who was refused is nobody's consumer, and who was there before hears on
    assert first.until(lambda c: c.elements).values == ["x"]
    first.close()
    until(lambda: stats(one, queue)["consumers"] == 1)
    assert listen(one, f"/ws/{queue}", headers=me + HANDSHAKE).status == 101
    assert listen(one, f"/ws/{queue}", headers=me + HANDSHAKE).status == 429
    log = one.stop()
    assert f"10.0.0.7 was refused with 429: GET /c/{queue}: 10.0.0.7 has 2 live consumers" in log
    assert "10.0.0.8 was refused" not in log


def test_who_could_not_join_or_was_dropped_is_not_counted_and_this_machine_never(
    own: RedisServer, start: Any, listen: Any, queue: str
) -> None:
    one, me = start(CAP + "stall = 1s\n[redis]\ndeadline = 3s\n", own.address), client("10.0.0.7")
    own.stop()
    for _ in range(3):
        assert listen(one, f"/c/{queue}", headers=me).status == 503
    own.start()
    until(lambda: one.http("GET", "/readyz")[0] == 200)
    assert listen(one, f"/c/{queue}?lease=1m", headers=me).status == 400  # it broadcasts
    lazy = [listen(one, f"/c/{queue}", headers=me, buffer=4096) for _ in range(2)]
    assert [one.status for one in lazy] == [200, 200]
    for _ in range(20):  # more than the sockets of two that do not read can hold
        add(one, queue, "x" * 100_000)
    until(lambda: stats(one, queue)["consumers"] == 0)
    assert [listen(one, f"/c/{queue}", headers=me).status for _ in range(3)] == [200, 200, 429]
    for address in ("", client("127.0.0.1"), client("::1")):
        assert {listen(one, f"/c/{queue}", headers=address).status for _ in range(3)} == {200}


def test_without_redis_sse_says_why_with_200_and_comet_with_503_and_who_is_there_stays(
    own: RedisServer, start: Any, listen: Any, queue: str
) -> None:
    one = start("[redis]\ndeadline = 3s\n", own.address)
    stays = listen(one, f"/c/{queue}")
    own.stop()
    sse = listen(one, f"/sse/{queue}.away").until_end()
    assert sse.status == 200
    assert sse.headers["content-type"] == "text/event-stream"
    assert sse.body.startswith(b": ")
    assert sse.body.endswith(b"\nretry: 2000\n")
    comet = listen(one, f"/c/{queue}.away")
    assert comet.status == 503
    assert comet.headers["retry-after"] == "1"
    ws = listen(one, f"/ws/{queue}.away", headers=HANDSHAKE)
    assert ws.status == 503
    own.start()
    until(lambda: one.http("POST", f"/q/{queue}", "v", TEXT)[0] == 200)
    assert stays.until(lambda c: c.objects).values == ["v"]


def test_the_end_of_an_instance_ends_its_streams_cleanly(start: Any, listen: Any, queue: str) -> None:
    one = start()
    comet, sse = listen(one, f"/c/{queue}"), listen(one, f"/sse/{queue}")
    one.stop()
    assert comet.until_end().trailer == "RestMQ-Closed: the server is ending"
    assert sse.until_end().body.endswith(b"\nretry: 1000\n")


def test_a_turns_elements_share_one_write_a_consumer(instance: Any, queue: str) -> None:
    plan = Plan("127.0.0.1", instance.port, queue, consumers=50, messages=300, producers=3, flight=32)
    result = asyncio.run(run(plan))
    assert (result.delivered, result.fewest, result.most) == (result.wanted, 300, 300)
    assert (result.refused, result.lost, result.doubled) == (0, 0, 0)
    assert result.writes <= result.wanted / 4


@pytest.mark.parametrize("transport", ["comet", "websocket"])
def test_roundrobin_load_comes_once_and_in_equal_shares(instance: Any, transport: str, queue: str) -> None:
    assert instance.form(f"/p/{queue}", "policy=roundrobin")[0] == 200
    plan = Plan("127.0.0.1", instance.port, queue, transport, 10, 300, 2, 8, roundrobin=True)
    result = asyncio.run(run(plan))
    assert (result.delivered, result.fewest, result.most) == (300, 30, 30)


def test_one_that_does_not_read_and_is_not_full_yet_holds_up_nobody(instance: Any, listen: Any, queue: str) -> None:
    listen(instance, f"/c/{queue}", buffer=4096)
    reader = listen(instance, f"/c/{queue}")
    for _ in range(60):
        batch_add(instance, queue, *["x" * 1000] * 100)
        reader.read(0.02)
    reader.until(lambda c: c.body.count(b'"value"') >= 6000)


def test_a_queue_that_was_heard_and_never_added_to_leaves_no_key(
    own: RedisServer, start: Any, listen: Any, queue: str
) -> None:
    one = start("", own.address)
    with own.client() as link:
        for target in (f"/c/{queue}", f"/sse/{queue}", f"/ws/{queue}", f"/c/{queue}?since=all", f"/c/{queue}?tap=1"):
            listener = listen(one, target)
            listener.close()
            until(lambda: link.keys(f"restmq:{{{queue}}}:*") == [], lambda: link.keys(f"restmq:{{{queue}}}:*"))
        add(one, queue, "a")
        listen(one, f"/c/{queue}").until(lambda c: c.values == ["a"]).close()
        until(lambda: stats(one, queue)["consumers"] == 0)
        assert link.exists(f"restmq:{{{queue}}}:a")  # its numbers go on
