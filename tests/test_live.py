"""Comet and SSE: frames, and consumers that do not read, without a socket; then the wire of a real instance."""

from __future__ import annotations

import json
from typing import Any

import pytest
from twisted.internet.task import Clock
from twisted.logger import globalLogPublisher, formatEvent
from wire import Listener, Wire, batch, handler, ring

from restmq.errors import Forbidden
from restmq.live import RETRY_ENDING, Comet, Live, Sse, comment, documents

START = {b"q": (0, b"e")}


def opened(kind: Any, clock: Clock, queues: tuple[bytes, ...] = (b"q",), **settings: Any) -> tuple[Any, Wire]:
    """A consumer with an open stream."""
    consumer, wire = kind(handler(**settings), queues, clock), Wire()
    consumer.open(wire, {queue: (0, b"e") for queue in queues})
    return consumer, wire


def give(*consumers: Live, **parts: Any) -> None:
    """One broadcast batch for all of them, through the ring they would really be in."""
    ring(*consumers).everyone(batch("v", **parts))


@pytest.fixture
def logged() -> Any:
    """The lines that were logged."""
    lines: list[str] = []

    def keep(event: Any) -> None:
        lines.append(formatEvent(event))

    globalLogPublisher.addObserver(keep)
    yield lines
    globalLogPublisher.removeObserver(keep)


# Frames


def test_an_object_has_the_seeds_fields_order_and_spacing() -> None:
    assert documents(batch("my element", number=7)) == ['{"key": "q:7", "value": "my element"}']


@pytest.mark.parametrize("value", ["", "007", 'a"b\\c', "é\u2028\U0001f600", "\r\n", "\x00", "</script>"])
def test_any_value_comes_back_from_its_object_as_it_was_and_the_object_is_ascii(value: str) -> None:
    (document,) = documents(batch(value, queue='ä:b'))
    assert document.isascii() and "\n" not in document and "\r" not in document
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
    Sse(handler(), [b"q"], Clock()).open(wire, {b"q": (5, b"e")})
    assert wire.data == b"retry: 2000\nid: 5@e\n\n"


def test_sse_of_several_queues_has_one_word_for_each_in_the_order_asked() -> None:
    sse, wire = Sse(handler(), [b"b", b"a"], Clock()), Wire()
    sse.open(wire, {b"a": (1, b"x"), b"b": (2, b"y")})
    assert wire.data == b"retry: 2000\nid: 2@y,1@x\n\n"
    assert sse.frame(batch("v", queue="a", first=2, epoch=b"x")).startswith(b"id: 2@y,2@x\n")
    assert sse.frame(batch("v", queue="b", first=3, epoch=b"y")).startswith(b"id: 3@y,2@x\n")
    assert b"id:" not in sse.frame(batch("v", queue="b", first=0, epoch=b"y"))


def test_what_came_early_on_several_queues_lies_between_the_ids_before_and_after_it() -> None:
    sse, wire = Sse(handler(), [b"a", b"b"], Clock()), Wire()
    ring(sse).everyone(batch("v", queue="a", first=6, epoch=b"x"))
    assert sse.unsent == sse.written > 0
    sse.open(wire, {b"a": (6, b"x"), b"b": (2, b"y")})
    assert wire.data == (
        b"retry: 2000\nid: 5@x,2@y\n\n"
        b'data: {"key": "a:1", "value": "v"}\n\n'
        b"id: 6@x,2@y\n\n"
    )
    assert sse.unsent == 0 and sse.written == len(wire.data)


def test_a_comment_is_one_line_whatever_the_reason_says() -> None:
    assert comment("away\r\ndata: x", 2000) == b": away data: x\nretry: 2000\n\n"


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
    comet.open(wire, START)
    assert wire.data == b'{"key": "q:1", "value": "v"}\r\n' and (comet.written, comet.unsent) == (30, 0)


def test_a_full_stream_is_told_and_when_it_drains_too() -> None:
    comet, wire = opened(Comet, Clock())
    wire.stuck = True
    give(comet)
    assert comet.full and comet.app.delivery.told == ["full"]
    wire.drain()
    assert not comet.full and comet.app.delivery.told == ["full", "drained"]


def test_who_has_more_than_the_bound_waiting_is_dropped_and_the_log_says_so_once(logged: list[str]) -> None:
    comet, wire = opened(Comet, Clock(), max_waiting=100)
    other, beside = opened(Comet, Clock(), max_waiting=100)
    wire.stuck = True
    for _ in range(20):
        give(comet, other)
    assert wire.aborted and len(wire.data) <= 100 + 30
    assert len(beside.parts) == 20 and not beside.closed
    assert [line for line in logged if "does not read" in line] == [
        "comet:consumer 127.0.0.1 of q does not read: dropped, 120 bytes wait for it"
    ]
    assert comet.written - comet.unsent == 0
    wire.on_lost()
    assert comet.app.delivery.told[-1] == "left"


def test_one_value_larger_than_the_bound_does_not_drop_a_consumer_that_reads() -> None:
    comet, wire = opened(Comet, Clock(), max_waiting=10)
    wire.stuck = True
    give(comet)
    assert not wire.closed
    wire.drain()
    give(comet)
    assert not wire.closed and len(wire.parts) == 2


def test_who_takes_nothing_for_the_stall_time_is_dropped(logged: list[str]) -> None:
    clock = Clock()
    comet, wire = opened(Comet, clock, heartbeat=15, stall=60)
    wire.stuck = True
    give(comet)
    clock.pump([15] * 4)
    assert not wire.aborted
    clock.advance(15)
    assert wire.aborted and "none of 30 waiting bytes moved for 60 s" in logged[-1]


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
    assert wire.aborted


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


@pytest.mark.parametrize(("kind", "sign"), [(Comet, b"\r\n"), (Sse, b":\n\n")])
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
    sse.app.acl.generation += 1
    clock.advance(15)
    assert not wire.closed
    sse.app.acl.generation += 1
    sse.app.acl.refusal = Forbidden("127.0.0.1 is not let in")
    clock.advance(15)
    assert wire.closed and b": 127.0.0.1 is not let in\n" in wire.data
    assert sse.app.delivery.told == ["left"]


def test_the_end_of_an_instance_tells_an_event_source_when_to_come_again() -> None:
    sse, wire = opened(Sse, Clock())
    sse.close("the server is ending")
    assert wire.closed and not wire.aborted
    assert wire.data.endswith(b": the server is ending\nretry: %d\n\n" % RETRY_ENDING)


def test_closing_one_that_has_not_taken_all_cuts_it_for_the_rest_goes_to_others() -> None:
    comet, wire = opened(Comet, Clock())
    wire.stuck = True
    give(comet)
    comet.close("the server is ending")
    assert wire.aborted and comet.unsent == 30


def test_after_the_end_nothing_is_written_and_no_timer_is_left() -> None:
    clock = Clock()
    comet, wire = opened(Comet, clock)
    wire.on_lost()
    give(comet)
    comet.close("again")
    assert wire.data == b"" and clock.getDelayedCalls() == []
    assert comet.app.delivery.told == ["left"]
