"""Resume: what a live consumer missed comes first, without gap or double, on all three transports."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any, cast
from urllib.parse import quote

import pytest
from twisted.internet.task import Clock

from restmq.delivery import replay
from restmq.delivery.subscription import Subscription
from restmq.live.comet import Comet
from restmq.live.options import StreamOptions
from restmq.model.element import Element
from restmq.runtime.future import Slot, drive
from restmq.store.instances import History
from tests.support.listener import Listener, numbers
from tests.support.patience import PATIENCE, until
from tests.support.redis_server import RedisServer
from tests.support.requests import add, batch_add, stats, texts
from tests.support.stream import Wire, as_stream, batch, handler

TRANSPORTS = ("c", "sse", "ws")


def have(count: int) -> Callable[[Listener], bool]:
    """Whether so many elements are there."""
    return lambda listener: listener.body.count(b'"key": ') >= count


@pytest.fixture
def past(instance: Any, queue: str, listen: Any) -> Any:
    """Broadcasts ten elements, v0 to v9, and answers all ids of who heard them, that of the opening first."""

    def make(where: Any = instance, name: str = queue, count: int = 10, singly: bool = False) -> list[str]:
        first = listen(where, f"/sse/{name}")
        if singly:  # history is cut when the next is broadcast
            for number, value in enumerate(texts(count), 1):
                add(where, name, value)
                first.until(have(number))
        else:
            batch_add(where, name, *texts(count))
        ids: list[str] = first.until(have(count)).ids
        first.close()
        until(lambda: stats(where, name)["consumers"] == 0)
        return ids

    return make


def flood(instance: Any, queue: str, listener: Listener, batches: int, size: int = 10_000) -> None:
    """Add batches of a hundred large values, as fast as a listener gets them."""
    there = listener.body.count(b'"key": ')
    for number in range(1, batches + 1):
        batch_add(instance, queue, *["x" * size] * 100)
        listener.until(have(there + 100 * number))


# Where it goes on


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_an_id_goes_on_behind_its_element_and_then_with_what_comes(
    instance: Any, listen: Any, queue: str, past: Any, transport: str
) -> None:
    ids = past()
    again = listen(instance, f"/{transport}/{queue}?since={ids[4]}").until(have(6))
    assert again.values == texts(6, 4)
    assert again.ids == ids[4:]
    add(instance, queue, "new")
    assert again.until(have(7)).values == [*texts(6, 4), "new"]
    assert again.ids[-1] == ids[-1].replace("10@", "11@")


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize(
    ("word", "came"),
    [
        ("QUEUE:7", [8, 9, 10]),
        ("-3", [8, 9, 10]),
        ("-2000", list(range(1, 11))),
        ("10m", list(range(1, 11))),
        ("all", list(range(1, 11))),
        ("latest", [10]),
        ("now", []),
    ],
)
def test_each_word_goes_on_where_it_says(
    instance: Any, listen: Any, queue: str, past: Any, transport: str, word: str, came: list[int]
) -> None:
    past()
    consumer = listen(instance, f"/{transport}/{queue}?since={word.replace('QUEUE', queue)}")
    add(instance, queue, "new")
    consumer.until(lambda c: "new" in c.values)
    assert numbers(consumer) == [*came, 11]
    assert consumer.told == []


def test_a_time_ago_leaves_out_what_is_older(instance: Any, listen: Any, queue: str, past: Any) -> None:
    past()
    time.sleep(1.5)
    listener = listen(instance, f"/c/{queue}")
    add(instance, queue, "young")
    listener.until(have(1))
    between = time.monotonic() - 0.75

    def since_then() -> list[str]:  # a machine that is late may ask for too long a time, or too short a one
        ago = time.monotonic() - between
        again = listen(instance, f"/c/{queue}?since={ago:.3f}s").until(have(1))
        values: list[str] = again.quiet().values
        return values

    until(lambda: since_then() == ["young"])
    assert len(listen(instance, f"/c/{queue}?since=0.5h").until(have(11)).values) == 11


def test_since_may_stand_in_a_header_of_ours(instance: Any, listen: Any, queue: str, past: Any) -> None:
    past()
    assert listen(instance, f"/c/{queue}", headers="RestMQ-Since: -2\r\n").until(have(2)).values == ["v8", "v9"]


def test_last_event_id_weighs_more_than_since(instance: Any, listen: Any, queue: str, past: Any) -> None:
    ids = past()
    again = listen(instance, f"/sse/{queue}?since=all", headers=f"Last-Event-ID: {ids[8]}\r\n")
    assert again.until(have(2)).quiet().values == ["v8", "v9"]


def test_last_event_id_is_for_event_streams_only(instance: Any, listen: Any, queue: str, past: Any) -> None:
    ids = past()
    assert listen(instance, f"/c/{queue}", headers=f"Last-Event-ID: {ids[8]}\r\n").quiet().body == b""


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize(
    "words",
    ["yesterday", "-0", "-", "3@", "01@e", "@e", "a:1,b:1", "-1,-1", "other:1", "QUEUE:0", "10@e@e", "1.2.3s", "-x"],
)
def test_other_words_are_refused(instance: Any, listen: Any, queue: str, transport: str, words: str) -> None:
    answer = listen(instance, f"/{transport}/{queue}?since={words.replace('QUEUE', queue)}")
    assert answer.status == 400
    assert b"urn:restmq:bad-option" in answer.until_end().body
    until(lambda: stats(instance, queue)["consumers"] == 0)


def test_an_element_on_comet_and_a_websocket_has_an_id_only_when_since_was_sent(
    instance: Any, listen: Any, queue: str, past: Any
) -> None:
    past()
    for transport in ("c", "ws"):
        with_ids = listen(instance, f"/{transport}/{queue}?since=now").until(lambda c: c.objects)
        assert list(with_ids.objects[0]) == ["id"]
        without = listen(instance, f"/{transport}/{queue}")
        add(instance, queue, "x")
        assert list(with_ids.until(have(1)).elements[0]) == ["key", "value", "id"]
        assert list(without.until(have(1)).objects[0]) == ["key", "value"]


# Several queues


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_one_id_resumes_all_queues_of_a_connection(
    instance: Any, listen: Any, queue: str, past: Any, transport: str
) -> None:
    east, west = f"{queue}.east", f"{queue}.west"
    first = listen(instance, f"/{transport}/{east},{west}?since=now")
    for value in texts(6):
        add(instance, west if int(value[1:]) % 3 else east, value)
    first.until(have(6))
    assert len(set(first.ids)) == 7
    for seen in range(7):
        again = listen(instance, f"/{transport}/{east},{west}?since={first.ids[seen]}")
        again.until(lambda c, seen=seen: c.ids and have(6 - seen)(c))
        assert sorted(again.values) == sorted(first.values[seen:])
        assert again.ids[0] == first.ids[seen]
        assert [word.split("@")[0] for word in again.ids[-1].split(",")] == ["2", "4"]
        again.close()


def test_one_word_is_for_all_queues_or_there_is_one_each(instance: Any, listen: Any, queue: str, past: Any) -> None:
    east, west, both = f"{queue}.east", f"{queue}.west", f"/c/{queue}.east,{queue}.west"
    past(name=east), past(name=west)
    found: dict[str, list[str]] = {}
    for words in ("-1", f"{east}:8", "latest,-2", f"now,{west}:9"):
        consumer = listen(instance, f"{both}?since={words}").until(lambda c: c.ids)
        add(instance, east, "end")
        add(instance, west, "end")
        consumer.until(lambda c: c.values.count("end") == 2)
        found[words] = sorted(one["key"].removeprefix(queue) for one in consumer.elements if one["value"] != "end")
        consumer.close()
        instance.http("DELETE", f"/q/{east}?forget=1"), instance.http("DELETE", f"/q/{west}?forget=1")
        past(name=east), past(name=west)
    assert found == {
        "-1": [".east:10", ".west:10"],
        f"{east}:8": [".east:10", ".east:9"],
        "latest,-2": [".east:10", ".west:10", ".west:9"],
        f"now,{west}:9": [".west:10"],
    }


# A client that comes back with its last id


#: What no instance ever gave: of another broker, of another number of queues, cut off, too long, other bytes.
UNREADABLE = [
    "0", "17", "-1", "all", "now", "latest", "10m", "QUEUE:3", "1700000000000-0", "9f0c6a1e-77b1-4c3a-9f4e-1d2b", "3@",
    "@e", "03@e", "3@e@e", "3@e,4@e", "3@e, 3@e", ",", "%", '"3@e"', "12345678901234567@e", "3@" + "e" * 65, "x" * 6000,
    "3@é", "null", "undefined",
]  # fmt: skip


@pytest.mark.parametrize("word", UNREADABLE)
@pytest.mark.parametrize("where", ["header", "query"])
def test_a_last_id_that_is_none_is_a_reset_and_all_that_is_kept_follows(
    instance: Any, listen: Any, queue: str, past: Any, word: str, where: str
) -> None:
    past(count=3)
    word = word.replace("QUEUE", queue)
    if where == "header":
        again = listen(instance, f"/sse/{queue}", headers=f"Last-Event-ID: {word}\r\n")
    else:
        again = listen(instance, f"/sse/{queue}?lastEventId={quote(word)}")
    assert again.status == 200
    assert again.until(have(3)).values == texts(3)
    assert b"event: reset\ndata: {" in again.body
    assert again.body.index(b"event: reset") < again.body.index(b'"key"')
    assert [int(one.partition("@")[0]) for one in again.ids][-3:] == [1, 2, 3]
    add(instance, queue, "new")
    assert again.until(have(4)).values[-1] == "new"


def test_a_last_id_that_is_no_utf8_is_a_reset(instance: Any, listen: Any, queue: str, past: Any) -> None:
    past(count=3)
    again = listen(instance, f"/sse/{queue}?lastEventId=%FF%00")
    assert again.until(have(3)).told == [{"queue": queue, "epoch": again.ids[-1].partition("@")[2]}]


def test_a_last_id_of_another_number_of_queues_resets_all(instance: Any, listen: Any, queue: str, past: Any) -> None:
    names = [f"{queue}.a", f"{queue}.b"]
    ids = [past(name=name, count=2)[-1] for name in names]
    for words in (ids[0], ",".join([*ids, ids[0]])):
        again = listen(instance, f"/sse/{','.join(names)}", headers=f"Last-Event-ID: {words}\r\n").until(have(4))
        assert [one["queue"] for one in again.told] == names
        assert sorted(again.values) == ["v0", "v0", "v1", "v1"]
        again.close()


def test_of_several_ids_the_one_that_is_none_resets_its_queue_alone(
    instance: Any, listen: Any, queue: str, past: Any
) -> None:
    names = [f"{queue}.a", f"{queue}.b"]
    ids = [past(name=name, count=3) for name in names]
    again = listen(instance, f"/sse/{','.join(names)}?lastEventId={ids[0][2]},17").until(have(4)).quiet()
    assert [one["queue"] for one in again.told] == names[1:]
    assert sorted(one["key"] for one in again.elements) == [f"{names[0]}:3", *(f"{names[1]}:{n}" for n in (1, 2, 3))]


@pytest.mark.parametrize("word", ["lastEventId", "Last-Event-ID", "last_event_id", "evs_last_event_id"])
def test_a_polyfills_parameter_is_a_last_id(instance: Any, listen: Any, queue: str, past: Any, word: str) -> None:
    ids = past()
    more = "since=all&evs_preamble=1&padding=true&r=0.25&_=17"
    assert listen(instance, f"/sse/{queue}?{more}&{word}={ids[8]}").until(have(2)).quiet().values == ["v8", "v9"]
    # An old polyfill adds one to an address that has one.
    assert listen(instance, f"/sse/{queue}?{word}={ids[1]}&{word}={ids[9]}").until(have(1)).quiet().values == ["v9"]


def test_the_header_weighs_more_than_the_parameter_and_an_empty_one_is_none(
    instance: Any, listen: Any, queue: str, past: Any
) -> None:
    ids = past()
    header = listen(instance, f"/sse/{queue}?lastEventId={ids[1]}", headers=f"Last-Event-ID: {ids[9]}\r\n")
    assert header.until(have(1)).quiet().values == ["v9"]
    both = listen(instance, f"/sse/{queue}?lastEventId={ids[9]}&lastEventId=", headers="Last-Event-ID:\r\n")
    assert both.until(have(1)).quiet().values == ["v9"]
    none = listen(instance, f"/sse/{queue}?lastEventId=", headers="Last-Event-ID:\r\n").quiet()
    assert (none.status, none.told, none.values) == (200, [], [])
    since = listen(instance, f"/sse/{queue}?since=-1&lastEventId=", headers="Last-Event-ID:\r\n").until(have(1)).quiet()
    assert since.values == ["v9"]


@pytest.mark.parametrize("transport", ["c", "ws"])
def test_a_last_id_is_for_event_streams_and_others_say_since(
    instance: Any, listen: Any, queue: str, transport: str
) -> None:
    answer = listen(instance, f"/{transport}/{queue}?lastEventId=3@e").until_end()
    assert answer.status == 400
    assert b"the query parameter 'lastEventId' is not known" in answer.body


# What an event stream's client makes of a block without data


def test_a_block_without_data_has_a_blank_line_for_a_browser_alone(
    start: Any, listen: Any, queue: str, past: Any
) -> None:
    one = start("[live]\nheartbeat = 100ms\n")
    asked = "Pragma: no-cache\r\nCache-Control: no-cache\r\n"
    browser, other = listen(one, f"/sse/{queue}", headers=asked), listen(one, f"/sse/{queue}")
    for listener, end in ((browser, b"\n\n"), (other, b"\n")):
        listener.until(lambda c: c.body.count(b":\n") >= 3)
        (first,) = listener.ids
        beats = listener.body.removeprefix(b"retry: 2000\nid: " + first.encode() + end)
        assert beats == b":\n" * (len(beats) // 2)
    add(one, queue, "a")
    assert other.until(have(1)).body.count(b"\n\n") == 1


# What is no longer kept


def gap(transport: str, listener: Listener) -> dict[str, Any]:
    """The only announcement; on an event stream it is an event of its own."""
    (told,) = listener.told
    if transport == "sse":
        assert b"event: gap\ndata: {" in listener.body
    return told


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_what_history_no_longer_keeps_is_announced(
    start: Any, listen: Any, queue: str, past: Any, transport: str
) -> None:
    one = start("[queues]\nhistory = 5\n")
    ids = past(one, count=40, singly=True)
    again = listen(one, f"/{transport}/{queue}?since={ids[3]}").until(lambda c: "v39" in c.values)
    assert again.ids[0] == ids[3]
    first = numbers(again)[0]
    assert 40 - 5 * 1.125 - 8 <= first <= 36  # at least five are kept, and not many more
    assert gap(transport, again) == {"queue": queue, "gap": [4, first - 1], "missed": first - 4}
    assert numbers(again) == list(range(first, 41))
    assert again.objects.index(again.told[0]) < again.objects.index(again.elements[0])


def test_the_id_of_a_gap_is_the_place_behind_it(start: Any, listen: Any, queue: str, past: Any) -> None:
    one = start("[queues]\nhistory = 5\n")
    ids = past(one, count=40, singly=True)
    again = listen(one, f"/sse/{queue}", headers=f"Last-Event-ID: {ids[3]}\r\n").until(lambda c: "v39" in c.values)
    assert again.ids[0] == ids[3]
    assert again.ids[1:] == ids[numbers(again)[0] - 1 :]


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_purge_leaves_a_gap_and_does_not_end_the_connection(
    instance: Any, listen: Any, queue: str, past: Any, transport: str
) -> None:
    ids = past()
    stays = listen(instance, f"/{transport}/{queue}?since=now")
    assert instance.http("DELETE", f"/q/{queue}")[0] == 200
    again = listen(instance, f"/{transport}/{queue}?since={ids[4]}").until(lambda c: c.told)
    assert gap(transport, again) == {"queue": queue, "gap": [5, 10], "missed": 6}
    add(instance, queue, "after")
    for each in (again, stays):
        assert each.until(have(1)).values == ["after"]
        assert each.ids[-1].startswith("11@")


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_an_id_of_another_epoch_is_announced_and_all_of_the_new_one_comes(
    instance: Any, listen: Any, queue: str, past: Any, transport: str
) -> None:
    old = past()[4]
    assert instance.http("DELETE", f"/q/{queue}?forget=1")[0] == 200
    new = past(count=3)
    epoch = new[0].partition("@")[2]
    assert epoch != old.partition("@")[2]
    again = listen(instance, f"/{transport}/{queue}?since={old}").until(have(3))
    assert again.told == [{"queue": queue, "epoch": epoch}]
    assert (b"event: reset\ndata: {" in again.body) == (transport == "sse")
    assert again.values == texts(3)
    assert again.ids[0] == old
    assert again.ids[-1] == new[-1]


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_who_is_connected_hears_of_a_new_epoch_and_its_first_elements(
    instance: Any, listen: Any, queue: str, past: Any, transport: str
) -> None:
    ids = past()
    resumed = listen(instance, f"/{transport}/{queue}?since={ids[4]}").until(have(6))
    plain = listen(instance, f"/c/{queue}")
    assert instance.http("DELETE", f"/q/{queue}?forget=1")[0] == 200
    add(instance, queue, *texts(3))
    assert resumed.until(have(9)).values[6:] == texts(3)
    assert [one["queue"] for one in resumed.told] == [queue]
    assert resumed.ids[-1].partition("@")[2] == resumed.told[0]["epoch"] != ids[0].partition("@")[2]
    assert plain.until(have(3)).values == texts(3)


def test_elements_that_expired_or_were_taken_are_no_gap(instance: Any, listen: Any, queue: str) -> None:
    first = listen(instance, f"/c/{queue}?since=now").until(lambda c: c.ids)
    add(instance, queue, "a")
    add(instance, queue, "short", options="?ttl=3s")
    ends = time.monotonic() + 3.1
    add(instance, queue, "b")
    first.until(have(3))
    first.close()
    until(lambda: stats(instance, queue)["consumers"] == 0)
    add(instance, queue, "taken")
    assert b"taken" in instance.http("GET", f"/q/{queue}")[2]
    time.sleep(max(0, ends - time.monotonic()))
    for word in (first.ids[0], "all", "-3"):
        again = listen(instance, f"/c/{queue}?since={word}").until(have(2))
        assert (again.quiet(0.1).values, again.told) == (["a", "b"], [])
        assert [one.split("@")[0] for one in again.ids[1:]] == ["1", "3"]
        again.close()


@pytest.mark.parametrize("none", ["history", "history_bytes"])
@pytest.mark.parametrize("many", [1, 5, 10])
def test_without_history_nothing_is_replayed_which_is_announced(
    start: Any, listen: Any, queue: str, past: Any, none: str, many: int
) -> None:
    one = start(f"[queues]\n{none} = 0\n")
    ids = past(one, count=many, singly=True)
    until(lambda: stats(one, queue)["leased"] == 0)
    nothing = f"0@{ids[0].partition('@')[2]}"
    for since, low in ((nothing, 1), ("-1", many), ("latest", many), (f"-{many + 5}", 1), ("5m", 1), (f"{queue}:1", 1)):
        again = listen(one, f"/c/{queue}?since={since}").until(lambda c: c.told)
        assert again.told[0] == {"queue": queue, "gap": [low, many], "missed": many - low + 1}, since
        assert again.elements == []
        again.close()
    assert listen(one, f"/c/{queue}?since=all").quiet().told == []


def test_what_since_asks_for_and_is_not_kept_is_announced(start: Any, listen: Any, queue: str, past: Any) -> None:
    one = start("[queues]\nhistory = 10\n")
    past(one, count=60, singly=True)
    for since in ("-50", "5m", f"{queue}:3"):
        again = listen(one, f"/c/{queue}?since={since}").until(lambda c: "v59" in c.values)
        gap = again.told[0]["gap"]
        assert gap[0] == (11 if since == "-50" else 1)  # else it is not known from where
        assert again.values == texts(60)[gap[1] :]
        assert 10 <= len(again.values) < 25
        again.close()
    for since in ("-10", f"{queue}:55", "all"):  # what is asked for is there
        again = listen(one, f"/c/{queue}?since={since}").until(lambda c: "v59" in c.values)
        assert again.told == []
        again.close()


def test_a_roundrobin_queue_replays_only_what_was_broadcast(instance: Any, listen: Any, queue: str, past: Any) -> None:
    ids = past()
    assert instance.form(f"/p/{queue}", "policy=roundrobin")[0] == 200
    again = listen(instance, f"/sse/{queue}?since={ids[8]}").until(have(2))
    add(instance, queue, "turn")
    again.until(have(3))
    assert again.values == ["v8", "v9", "turn"]
    assert again.ids == ids[8:]
    again.close()
    until(lambda: stats(instance, queue)["consumers"] == 0)
    assert listen(instance, f"/c/{queue}?since=all").until(have(10)).quiet().values == texts(10)


# Much of it, and all the while more


class Producer(threading.Thread):
    """Adds batches of ten until told to stop."""

    def __init__(self, instance: Any, queue: str) -> None:
        super().__init__(daemon=True)
        self.instance, self.queue, self.stopping, self.count = instance, queue, False, 0
        self.start()

    def run(self) -> None:
        """Add."""
        while not self.stopping:
            batch_add(self.instance, self.queue, *texts(10, self.count))
            self.count += 10
            time.sleep(0.005)

    def stop(self) -> int:
        """How many were added."""
        self.stopping = True
        self.join(PATIENCE)
        return self.count


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_long_past_comes_whole_and_in_order_while_producers_go_on(
    start: Any, listen: Any, queue: str, past: Any, transport: str
) -> None:
    one, other = (start("[queues]\nhistory = 5000\n") for _ in range(2))
    ids = past(one, count=2500)
    stays = listen(one, f"/c/{queue}?since=now").until(lambda c: c.ids)
    producer = Producer(other, queue)
    for where in (one, other):
        again = listen(where, f"/{transport}/{queue}?since={ids[0]}").until(have(2600))
        again.close()
    added = producer.stop()
    last = listen(other, f"/{transport}/{queue}?since={ids[0]}").until(have(2500 + added))
    assert last.told == []
    assert numbers(last) == list(range(1, 2501 + added))
    assert [int(word.split("@")[0]) for word in last.ids] == list(range(2501 + added))
    for each in (again, stays.until(have(added))):
        got = numbers(each)
        assert got == list(range(got[0], got[0] + len(got)))


def test_who_does_not_read_its_past_disturbs_nobody_and_misses_nothing(start: Any, listen: Any, queue: str) -> None:
    one = start("[queues]\nhistory = 5000\nhistory_bytes = 64MiB\n[live]\nmax_waiting = 1MiB\n")
    first = listen(one, f"/sse/{queue}")
    flood(one, queue, first, 20, 4000)
    lazy = listen(one, f"/sse/{queue}?since=all", buffer=4096)
    for value in texts(500):
        add(one, queue, value)
    first.until(have(2500))
    assert stats(one, queue)["consumers"] == 2
    lazy.hurry().until(have(2500))
    assert numbers(lazy) == list(range(1, 2501))
    assert lazy.told == []


def test_one_who_reads_its_past_too_slowly_for_history_is_told_what_it_missed(
    start: Any, listen: Any, queue: str
) -> None:
    one = start("[queues]\nhistory = 1000\nhistory_bytes = 64MiB\n")
    first = listen(one, f"/c/{queue}")
    flood(one, queue, first, 10, 7000)
    lazy = listen(one, f"/c/{queue}?since=all", buffer=4096)
    flood(one, queue, first, 20, 3000)
    lazy.hurry().until(lambda c: b":3000" in c.body[-6000:])
    (told,) = lazy.told
    low, high = told["gap"]
    assert told["missed"] == high - low + 1
    assert numbers(lazy) == [*range(1, low), *range(high + 1, 3001)]


def test_the_only_consumer_s_past_counts_for_nothing_as_long_as_it_is_not_there(
    start: Any, listen: Any, queue: str, past: Any
) -> None:
    """What comes meanwhile is in nobody's socket: it stays in the queue, and comes when the consumer leaves instead."""
    one = start("[queues]\nhistory = 5000\nhistory_bytes = 64MiB\n")
    first = listen(one, f"/c/{queue}")
    flood(one, queue, first, 10)
    first.close()
    until(lambda: stats(one, queue)["consumers"] == 0)
    lazy = listen(one, f"/c/{queue}?since=all", buffer=4096)
    add(one, queue, "not read")
    until(lambda: stats(one, queue)["leased"] == 1)
    time.sleep(0.3)
    assert stats(one, queue)["delivered"] == 1000
    lazy.close()
    until(lambda: stats(one, queue)["consumers"] == 0)
    assert stats(one, queue)["len"] == 1
    assert listen(one, f"/c/{queue}").until(have(1)).values == ["not read"]


def test_who_leaves_in_the_middle_of_its_past_leaves_nothing_behind(start: Any, listen: Any, queue: str) -> None:
    one = start("[queues]\nhistory = 5000\nhistory_bytes = 64MiB\n")
    names = [f"{queue}.a", f"{queue}.b"]
    for name in names:
        first = listen(one, f"/c/{name}")
        flood(one, name, first, 10)
        first.close()
    for transport in TRANSPORTS:
        target = f"/{transport}/{','.join(names)}?since=all"
        listen(one, target, buffer=4096).close()
    for name in names:
        until(lambda name=name: stats(one, name)["consumers"] == 0)
    add(one, names[0], "next")
    assert listen(one, f"/c/{names[0]}").until(have(1)).values == ["next"]
    assert "failed" not in one.log.read_text()


# Redis goes


@pytest.fixture
def halfway(own: RedisServer, start: Any, listen: Any, queue: str, transport: str) -> Any:
    """An instance, who heard two thousand elements, and who has read a part of them as its past."""
    one = start("[queues]\nhistory = 5000\nhistory_bytes = 64MiB\n[redis]\ndeadline = 3s\n", own.address)
    first = listen(one, f"/c/{queue}")
    flood(one, queue, first, 20, 4000)
    return one, first, listen(one, f"/{transport}/{queue}?since=all", buffer=4096)


@pytest.mark.parametrize("how", ["stopped", "asleep"])
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_when_redis_goes_while_the_past_is_read_the_stream_goes_on_when_it_is_back(
    own: RedisServer, halfway: Any, listen: Any, queue: str, transport: str, how: str
) -> None:
    one, first, lazy = halfway
    if how == "stopped":
        own.stop()
    else:
        own.process.send_signal(signal.SIGSTOP)  # longer than the deadline: what was asked is given up
    lazy.hurry().quiet(0.5 if how == "stopped" else 4.5)
    assert lazy.ended is False
    there = numbers(lazy)
    assert there == list(range(1, len(there) + 1)) and len(there) < 2000
    if how == "stopped":
        own.start()
    else:
        own.process.send_signal(signal.SIGCONT)
    until(lambda: one.http("GET", "/readyz")[0] == 200)
    add(one, queue, "new")
    for listener in (lazy, first):
        listener.until(lambda c: b":2001" in c.body[-6000:])
        assert numbers(listener) == list(range(1, 2002))
        listener.quiet(0.5)
        assert len(listener.elements) == 2001 and not listener.ended


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_past_that_cannot_be_read_ends_the_stream_with_a_reason(
    own: RedisServer, halfway: Any, queue: str, transport: str
) -> None:
    one, first, lazy = halfway
    link = own.client()
    link.set(f"restmq:{{{queue}}}:h", "somebody else wrote here")
    lazy.hurry().until_end()
    if transport == "sse":
        assert lazy.body.endswith(b": past elements could not be read; connect again with the last id\nretry: 1000\n")
    if transport == "ws":
        assert (lazy.code, lazy.reason) == (1001, "past elements could not be read; connect again with the last id")
    log = one.log.read_text()
    assert "sending the past failed" in log and "WRONGTYPE" in log and "past elements could not be read" in log
    assert numbers(lazy) == list(range(1, len(lazy.elements) + 1))
    assert first.quiet(0.1).ended is False


def test_a_page_that_is_loaded_again_under_load_stops_nothing(start: Any, listen: Any, queue: str) -> None:
    """The only consumer goes with much unsent, and another comes at that moment: all goes on, nothing is lost."""
    one = start("[queues]\nhistory = 5000\nhistory_bytes = 64MiB\n")
    old = listen(one, f"/c/{queue}", buffer=4096)
    for _ in range(6):
        batch_add(one, queue, *["x" * 10000] * 100)
    old.close()
    new = listen(one, f"/c/{queue}")
    for value in texts(15):
        batch_add(one, queue, *[value] * 100)
        while new.read(0.01):
            pass  # it reads all that is there: who does not is dropped
    new.until(lambda c: c.body.count(b'"v14"') >= 100)
    until(lambda: stats(one, queue)["len"] + stats(one, queue)["leased"] == 0, lambda: stats(one, queue))


def test_an_instance_that_missed_more_than_history_keeps_tells_its_consumers(
    own: RedisServer, start: Any, listen: Any, queue: str
) -> None:
    conf = "[queues]\nhistory = 5\n"
    there = start(conf, own.address)
    with own.client() as link:
        others = {client["id"] for client in link.client_list()}
        here = start(conf, own.address)
        links = [client["id"] for client in link.client_list() if client["id"] not in others]
        first = listen(there, f"/c/{queue}")
        told = [listen(here, f"/{target}") for target in (f"sse/{queue}", f"c/{queue}?since=now")]
        plain = [listen(here, f"/{target}") for target in (f"c/{queue}", f"ws/{queue}")]
        add(here, queue, "before")
        for each in (first, *told, *plain):
            each.until(have(1))
        here.process.send_signal(signal.SIGSTOP)
        for one in links:
            link.client_kill_filter(_id=one)
        for number, value in enumerate(texts(30), 2):
            add(there, queue, value)
            first.until(have(number))
        here.process.send_signal(signal.SIGCONT)
    for each in (*told, *plain):
        each.until(lambda c: "v29" in c.values)
        (gap_told,) = each.told
        low, high = gap_told["gap"]
        assert (low, gap_told["missed"]) == (2, high - 1)
        assert numbers(each) == [1, *range(high + 1, 32)]
    assert all(each.ids[-1].startswith("31@") for each in told)
    assert not any(each.ids for each in plain)


def delivering(queues: dict[bytes, Subscription], consumer: Any, clock: Clock, instances: Any) -> Any:
    """Stands for Delivery, which has this consumer in these queues."""
    core = SimpleNamespace(instances=instances)
    return SimpleNamespace(queues=queues, queues_of={consumer: list(queues)}, clock=clock, core=core)


class Past:
    """Stands for Redis: one page of one element is the past, and another always follows."""

    async def history(self, name: bytes, what: str, which: int, size: int) -> History:
        """A page."""
        return History(b"e", which + 9, 0, which, which + 1, [(which + 1, Element(name, 1, b"v", 0, 0, b"e"))])


def test_an_id_beyond_what_was_ever_broadcast_swallows_nothing() -> None:
    class Knows:
        """Stands for Redis, which is at position 5."""

        async def history(self, name: bytes, what: str, which: int, size: int) -> History:
            return History(b"e", 5, 0, which, which, [])

    clock, wire, queue = Clock(), Wire(), Subscription(b"q", cast(Any, None))
    consumer = Comet(handler(), [b"q"], clock, StreamOptions())
    consumer.open(as_stream(wire), {b"q": (5, b"e")})
    queue.epoch, queue.position = b"e", 4
    queue.consumers.join(consumer, 4)
    queue.consumers.broadcast.begin_history(consumer)
    queue.consumers.broadcast.give(batch("early", first=5))
    queue.position = 5
    delivery = delivering({b"q": queue}, consumer, clock, Knows())
    ended: list[object] = []
    drive(replay.replay(delivery, consumer, b"q", 99_999, b"e"), ended.append, ended.append)
    assert ended == [None]
    queue.consumers.broadcast.give(batch("late", first=6))
    assert wire.data.index(b"early") < wire.data.index(b"late")
    assert queue.consumers.broadcast.confirmed(4) == 6  # whose witness it is


def test_what_came_while_it_was_full_is_read_though_redis_answered_before_that() -> None:
    class Late:
        """Stands for Redis, whose answers come when the test says so."""

        def __init__(self) -> None:
            self.asked: list[tuple[int, Slot[History]]] = []

        def history(self, name: bytes, what: str, which: int, size: int) -> Slot[History]:
            slot: Slot[History] = Slot()
            self.asked.append((which, slot))
            return slot

    clock, wire, queue, late = Clock(), Wire(), Subscription(b"q", cast(Any, None)), Late()
    consumer = Comet(handler(), [b"q"], clock, StreamOptions())
    consumer.open(as_stream(wire), {b"q": (0, b"e")})
    queue.epoch, queue.position = b"e", 1
    queue.consumers.join(consumer)
    queue.consumers.broadcast.begin_history(consumer)
    delivery = delivering({b"q": queue}, consumer, clock, late)
    ended: list[object] = []
    drive(replay.replay(delivery, consumer, b"q", 0, b"e"), ended.append, ended.append)
    ((which, slot),) = late.asked
    wire.stuck = True
    consumer.write(b"filled")
    assert consumer.full
    queue.consumers.broadcast.give(batch("live", first=2, number=2))
    queue.position = 2
    wire.drain()
    assert not consumer.full
    slot.resolve(History(b"e", 1, 0, 0, 1, [(1, Element(b"q", 1, b"past"))]))  # from before the second was broadcast
    assert not ended
    (_, (which, slot)) = late.asked
    assert which == 1
    slot.resolve(History(b"e", 2, 0, 1, 2, [(2, Element(b"q", 2, b"live"))]))
    assert ended == [None]
    assert wire.data.count(b'"past"') == wire.data.count(b'"live"') == 1


def test_what_comes_while_one_does_not_read_its_past_does_not_pile_up_in_any_of_its_queues() -> None:
    clock, wire = Clock(), Wire()
    consumer = Comet(handler(), [b"a", b"b"], clock, StreamOptions())
    consumer.open(as_stream(wire), {b"a": (0, b"e"), b"b": (0, b"e")})
    queues = {name: Subscription(name, cast(Any, None)) for name in (b"a", b"b")}
    for queue in queues.values():
        queue.epoch = b"e"
        queue.consumers.join(consumer)
        queue.consumers.broadcast.begin_history(consumer)
    delivery = delivering(queues, consumer, clock, Past())
    wire.stuck = True
    ended: list[object] = []
    drive(replay.replay(delivery, consumer, b"a", 0, b"e"), ended.append, ended.append)
    assert consumer.full and not ended
    for name, queue in queues.items():
        queue.consumers.broadcast.give(batch("v", queue=name.decode(), first=5))
        assert queue.consumers.broadcast.first_kept(consumer) == 0
    wire.stuck, consumer.full = False, False  # it reads: what comes now follows what it is given
    for name, queue in queues.items():
        queue.consumers.broadcast.give(batch("w", queue=name.decode(), first=6))
        assert queue.consumers.broadcast.first_kept(consumer) == 6
    for queue in queues.values():
        queue.consumers.leave(consumer)
    consumer.pace.end()
    assert ended


def counts(client: Any, act: Callable[[], object]) -> int:
    """How many entries of streams the scripts ask for meanwhile, in all."""
    with client.monitor() as monitor:
        act()
        client.echo("over")
        asked = 0
        for heard in monitor.listen():
            words = heard["command"].split()
            if words[:1] == ["ECHO"]:
                return asked
            if words[0] == "XRANGE" and "COUNT" in words:
                asked += int(words[-1])
    raise AssertionError("the monitor ended")


def test_large_elements_are_read_a_few_at_a_time(own: Any, start: Any, listen: Any, queue: str) -> None:
    """Redis copies all that COUNT asks for: some hundreds of large ones for each MiB would stop it for so long."""
    one = start("[queues]\nhistory = 10000\nhistory_bytes = 256MiB\n", own.address)
    for _ in range(10):
        batch_add(one, queue, *["x" * 100_000] * 10)
    with own.client() as client:

        def read(target: str) -> None:
            listen(one, target).until(lambda c: c.body.count(b'"key"') >= 100)

        for target in (f"/c/{queue}", f"/c/{queue}?since=all"):
            asked = counts(client, partial(read, target))
            assert 100 <= asked < 660, (target, asked)
