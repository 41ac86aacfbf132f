"""The ring of a queue's consumers: who vouches for what was broadcast, and who leases what."""

from __future__ import annotations

from typing import Any

from twisted.internet.task import Clock

from restmq.live.comet import Comet
from restmq.live.options import StreamOptions
from restmq.model.element import Lease
from tests.support.stream import Wire, as_stream, batch, handler, ring

LEASING = StreamOptions(lease=1000, prefetch=2)


def opened(options: StreamOptions = StreamOptions()) -> tuple[Any, Wire]:  # noqa: B008
    """A consumer with an open stream."""
    consumer, wire = Comet(handler(), [b"q"], Clock(), options), Wire()
    consumer.open(as_stream(wire), {b"q": (0, b"e")})
    return consumer, wire


def test_what_a_consumer_s_socket_took_is_sure() -> None:
    (one, wire) = opened()
    all_of_them = ring(one)
    wire.stuck = True
    all_of_them.broadcast.give(batch("a", "b"))
    assert all_of_them.broadcast.confirmed(0) == 0
    wire.drain()
    assert all_of_them.broadcast.confirmed(0) == 2
    assert not all_of_them.waits()


def test_who_gets_the_past_first_vouches_for_nothing_until_it_is_there() -> None:
    (one, wire) = opened()
    all_of_them = ring(one)
    all_of_them.broadcast.begin_history(one)
    all_of_them.broadcast.give(batch("a", "b", "c", first=4))
    assert wire.data == b""
    assert all_of_them.broadcast.confirmed(3) == 3
    all_of_them.broadcast.on_history_given(one, 5)
    assert all_of_them.broadcast.confirmed(3) == 5
    all_of_them.broadcast.end_history(one, 5)
    assert wire.data.count(b'"c"') == 1
    assert b'"b"' not in wire.data
    assert all_of_them.broadcast.confirmed(5) == 6


def test_one_that_has_its_past_vouches_for_others_that_do_not() -> None:
    slow, fast = opened()[0], opened()[0]
    all_of_them = ring(slow, fast)
    for one in (slow, fast):
        all_of_them.broadcast.begin_history(one)
    all_of_them.broadcast.give(batch("a"))
    all_of_them.broadcast.end_history(fast, 0)
    assert all_of_them.broadcast.confirmed(0) == 1
    all_of_them.broadcast.give(batch("b", first=2))
    assert all_of_them.broadcast.confirmed(1) == 2


def test_what_is_read_again_is_not_kept_and_comes_once() -> None:
    (one, wire) = opened()
    all_of_them = ring(one)
    all_of_them.broadcast.begin_history(one)
    all_of_them.broadcast.give(batch("a"))
    assert all_of_them.broadcast.first_kept(one) == 1
    all_of_them.broadcast.drop_kept(one)
    assert all_of_them.broadcast.first_kept(one) == 0
    all_of_them.broadcast.give(batch("b", first=2))
    all_of_them.broadcast.end_history(one, 1)
    assert wire.data.count(b'"value"') == 1


def test_what_the_last_one_left_unsent_is_sure_only_when_given_back_and_blocks_nobody() -> None:
    (one, wire), (next_one, _) = opened(), opened()
    all_of_them = ring(one)
    wire.stuck = True
    all_of_them.broadcast.give(batch("a"))
    one.on_lost()
    all_of_them.leave(one)
    assert all_of_them.broadcast.untaken == 1
    all_of_them.join(next_one, 1)
    all_of_them.broadcast.give(batch("b", first=2))
    assert (all_of_them.broadcast.confirmed(0), all_of_them.broadcast.untaken, all_of_them.broadcast.ready_after) == (
        0,
        1,
        2,
    )
    all_of_them.broadcast.abandon(1)
    assert not all_of_them.broadcast.untaken
    assert all_of_them.broadcast.confirmed(0) == 2


def test_positions_of_an_old_life_hold_nothing_back_in_the_new_one() -> None:
    (one, wire) = opened()
    all_of_them = ring(one)
    all_of_them.broadcast.begin_history(one)
    all_of_them.broadcast.end_history(one, 500)
    all_of_them.on_new_epoch()
    all_of_them.broadcast.give(batch("a", first=1, epoch=b"f"))
    assert b'"a"' in wire.data


def test_who_leases_takes_no_more_than_prefetch_until_something_is_acknowledged() -> None:
    one, _ = opened(LEASING)
    all_of_them = ring(one)
    elements = batch("a", "b", "c", first=0).elements
    assert all_of_them.roundrobin.room == 2
    assert [element.number for element in all_of_them.roundrobin.give(b"q", elements, b"e")] == [3]
    assert (all_of_them.roundrobin.ready, all_of_them.roundrobin.room) == (0, 2)
    all_of_them.roundrobin.end_leases({1, 77})
    assert all_of_them.roundrobin.ready == 1
    assert all_of_them.roundrobin.leases(one, Lease(2, 0, b""))
    assert not all_of_them.roundrobin.leases(one, Lease(1, 0, b""))
    assert not all_of_them.roundrobin.leases(one, Lease(2, 1, b""))
    sent, rest, leased = all_of_them.leave(one)
    assert [[element.number for element in part] for part in (sent, rest, leased)] == [[1, 2], [], [2]]


def test_what_was_not_written_is_nobody_s_lease() -> None:
    one, wire = opened(LEASING)
    all_of_them = ring(one)
    wire.stuck = True
    all_of_them.roundrobin.give(b"q", batch("a", first=0).elements, b"e")
    one.on_lost()
    sent, rest, leased = all_of_them.leave(one)
    assert (sent, [element.number for element in rest], leased) == ([], [1], [])


def test_of_a_batch_that_left_in_part_what_is_whole_is_sure_when_the_last_one_leaves() -> None:
    one, wire = opened()
    all_of_them = ring(one)
    wire.stuck = True
    all_of_them.broadcast.give(batch("a", "b", "c"))
    size = len(b'{"key": "q:1", "value": "a"}\r\n')
    wire.drain(2 * size + 3)  # the third is cut off in the middle
    one.leave()
    all_of_them.leave(one)
    assert all_of_them.broadcast.confirmed(0) == 2
    assert all_of_them.broadcast.untaken == 3


def test_who_came_later_does_not_vouch_for_what_it_never_got() -> None:
    (slow, wire), (late, _) = opened(), opened()
    all_of_them = ring(slow)
    wire.stuck = True
    all_of_them.broadcast.give(batch("a"))
    all_of_them.join(late, 1)
    slow.on_lost()
    all_of_them.leave(slow)
    assert all_of_them.broadcast.confirmed(0) == 0
    assert all_of_them.broadcast.untaken == 1


def test_what_was_kept_for_one_that_left_in_the_middle_of_its_past_goes_back() -> None:
    (past, _), (late, _) = opened(), opened()
    all_of_them = ring(past)
    all_of_them.broadcast.begin_history(past)
    all_of_them.broadcast.give(batch("a"))
    all_of_them.join(late, 1)
    all_of_them.broadcast.give(batch("b", first=2))
    all_of_them.leave(past)
    assert all_of_them.broadcast.untaken == 1
    all_of_them.broadcast.abandon(1)
    assert all_of_them.broadcast.confirmed(0) == 2


def test_who_gets_what_the_leaving_one_did_not_take_vouches_for_it() -> None:
    (slow, wire), (past, _) = opened(), opened()
    all_of_them = ring(slow)
    wire.stuck = True
    all_of_them.broadcast.give(batch("a"))
    all_of_them.join(past, 1)
    all_of_them.broadcast.begin_history(past)
    all_of_them.broadcast.set_start(past, 0)
    slow.on_lost()
    all_of_them.leave(slow)
    assert not all_of_them.broadcast.untaken
    all_of_them.broadcast.end_history(past, 1)
    assert all_of_them.broadcast.confirmed(0) == 1


def test_one_that_does_not_read_holds_up_nobody_s_confirmation() -> None:
    (stuck, wire), (reader, _) = opened(), opened()
    all_of_them = ring(stuck, reader)
    wire.stuck, wire.on_full = True, lambda: None  # not so much that it would be passed over
    all_of_them.broadcast.give(batch("a", "b"))
    assert all_of_them.broadcast.confirmed(0) == 2


def test_what_nobody_has_yet_is_one_for_as_long_as_the_same_may_vouch_for_it() -> None:
    slow, newcomer = opened()[0], opened()[0]
    all_of_them = ring(slow)
    all_of_them.broadcast.begin_history(slow)
    for place in range(1, 1001):  # it reads its past slowly, and live elements come and come
        all_of_them.broadcast.give(batch("v", first=place))
    assert len(all_of_them.broadcast._witnesses) == 1
    all_of_them.join(newcomer, 1000)
    all_of_them.broadcast.begin_history(newcomer)
    all_of_them.broadcast.give(batch("w", first=1001))
    assert len(all_of_them.broadcast._witnesses) == 2  # of this one the newcomer may tell, of those before not
    all_of_them.broadcast.end_history(newcomer, 1001)
    assert (all_of_them.broadcast.confirmed(0), all_of_them.broadcast.ready_after) == (0, 1001)
    all_of_them.broadcast.on_history_given(slow, 400)
    assert all_of_them.broadcast.confirmed(0) == 400
    all_of_them.broadcast.end_history(slow, 1001)
    assert all_of_them.broadcast.confirmed(400) == 1001


def test_positions_that_were_passed_over_are_read_again_with_the_past() -> None:
    slow, wire = opened()
    all_of_them = ring(slow)
    all_of_them.broadcast.begin_history(slow)
    all_of_them.broadcast.give(batch("v", first=5))
    all_of_them.broadcast.on_skipped()  # more was missed here than history keeps
    all_of_them.broadcast.give(batch("w", first=20))
    assert all_of_them.broadcast.first_kept(slow) == 20
    assert wire.data == b""


def test_who_took_all_it_was_given_opens_the_window_though_another_is_the_witness() -> None:
    (stuck, wire), (late, _) = opened(), opened()
    all_of_them = ring(stuck)
    wire.unsent = 10  # less than makes it full, but it moves no more
    stuck.written = 10
    all_of_them.broadcast.give(batch("v", first=1))
    wire.unsent = stuck.written
    all_of_them.join(late, 1)
    all_of_them.broadcast.give(batch("w", first=2))
    wire.unsent = stuck.written
    assert (all_of_them.broadcast.confirmed(0), all_of_them.broadcast.ready_after) == (0, 2)
