"""Every promise holds while instances, Redis and the links between them are broken: the fault harness, for a while.

RESTMQ_LOAD_SECONDS says for how long each run lasts. The long run is a command:
python -m tests.support.harness --seconds 600. The second half of this file gives the harness
something that is broken, and it must find it.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.support.harness import World, failures, findings, options, run
from tests.support.instance import Instance
from tests.support.lanes import Broadcast, Cut, Ended, Fault, Lease, Once
from tests.support.load import SECONDS, many

ELEMENTS = many(10_000, 3_000)


def harness(folder: Path, words: str) -> dict[str, Any]:
    """A run of the harness in which every promise is kept."""
    plan = options(words.split())
    print(f"to repeat this: python -m tests.support.harness {words} --seed {plan.seed}")
    found = asyncio.run(run(folder, plan))
    print(found)
    assert not failures(found)
    return found


def test_nothing_is_lost_whatever_is_killed_stopped_or_cut(tmp_path: Path) -> None:
    found = harness(tmp_path, f"--seconds {max(SECONDS, 12)} --every 3 --rate {many(400, 200)}")
    assert found["faults"]


@pytest.mark.parametrize("policy", ["broadcast", "roundrobin"])
def test_three_instances_behind_nginx_are_one(tmp_path: Path, policy: str) -> None:
    words = f"--elements {ELEMENTS} --rate 4000 --producers 8 --consumers 30 --nginx --lanes {policy},solo,alone"
    found = harness(tmp_path, f"{words} --deadline 60 --silence 60 --faults=")
    for lane in (found[policy], found["solo"], found["alone"]):
        assert lane["acknowledged"] >= (ELEMENTS if lane is found[policy] else ELEMENTS // 100)
        assert lane["lost"] == lane["disorder"] == lane.get("doubled", 0) == lane.get("pairs doubled", 0) == 0
    if policy == "roundrobin":
        least, most = found[policy]["shares"]
        assert least in (ELEMENTS // 30, ELEMENTS // 30 + 1) and most - least <= 1
    else:
        assert found[policy]["pairs"] >= 30 * ELEMENTS
        assert found[policy]["pairs missing"] == found[policy]["holes"] == 0


@pytest.mark.parametrize(
    ("fault", "doubled", "pairs"),
    [
        ("kill", 5, 75),
        pytest.param("stop", 1, 0, marks=pytest.mark.rare),
        pytest.param("cut", 1, 0, marks=pytest.mark.rare),
    ],
)
def test_behind_nginx_a_fault_loses_nothing_and_explains_every_double(
    tmp_path: Path, fault: str, doubled: int, pairs: int
) -> None:
    # One fault doubles at most what an instance wrote in its last turn. A broadcast comes again only when all who
    # heard it died, as when Nginx had sent all consumers to the one instance that was not killed lately.
    words = f"--seconds {max(SECONDS, 14)} --every 2 --consumers 30 --nginx --lanes broadcast,roundrobin"
    found = harness(tmp_path, f"{words} --faults {fault}")
    assert found["faults"][fault] >= 1
    # A turn is as long as others had the machine: of 200 adds a second in each lane, and 30 consumers.
    turn = 200 * found["late"]
    assert found["roundrobin"]["doubled"] <= (doubled + turn) * found["faults"][fault]
    assert found["broadcast"]["pairs doubled"] <= (pairs + 30 * turn * (pairs > 0)) * found["faults"][fault]


def test_whoever_comes_back_after_more_than_is_kept_is_told_exactly_what_is_missing(tmp_path: Path) -> None:
    words = "--seconds 8 --every 0.5 --conf= --lanes broadcast --faults away --rate 500 --consumers 9"
    found = harness(tmp_path, words)["broadcast"]
    assert found["gaps announced"] >= 1
    assert found["pairs missing"] == found["holes"] == found["announced, but kept"] == found["pairs doubled"] == 0


# -- what the harness finds when something is broken


def world(folder: Path, words: str = "") -> World:
    """Lanes that never spoke to anybody, with twelve elements that were acknowledged in each."""
    one = World(folder, options(["--consumers", "12", *words.split()]))
    for lane in one.lanes:
        lane.looks["looks"] = 1
        for number in range(1, 13):
            value = b"%d" % number
            lane.acked[number], lane.acked_at[number] = value, time.monotonic()
            lane.sent.add(value)
    return one


def on_port(port: int) -> Instance:
    """An instance of which nothing is asked but its port. The cast is needed because a real one is started."""
    return cast(Instance, SimpleNamespace(port=port))


def give(lane: Any, number: int, who: str, instance: int = 0, P: int = 0) -> None:
    """An element arrived."""
    lane.note(number, b"%d" % number, who, 1, instance, (P, b"epoch") if P else None)


def everything(one: World) -> None:
    """Each lane gets what it was promised."""
    for lane in one.lanes:
        names = list(getattr(lane, "names", ["get0"]))
        for number in range(1, 13):
            if isinstance(lane, Broadcast):
                lane.homes.update({name: [(one.began, 0)] for name in names})
                for name in names:
                    give(lane, number, name, P=number)
            elif lane.name != "once":
                give(lane, number, names[number % len(names)])
        lane.books["taken"] = 12
        if isinstance(lane, Lease):
            lane.done.update(lane.acked.keys())
        if isinstance(lane, Once):
            lane.alone["a"], lane.found["a"] = ("/q/a/1", True, 0.0), {"state": "waiting"}


def broken(one: World) -> set[str]:
    """What the harness says is broken: lane and word."""
    return {failure.rpartition(": ")[0] for failure in failures(findings(one))}


def test_the_harness_finds_nothing_when_every_promise_is_kept(tmp_path: Path) -> None:
    one = world(tmp_path)
    everything(one)
    assert failures(findings(one)) == []


def lane(one: World, name: str) -> Any:
    """One of its lanes."""
    return next(lane for lane in one.lanes if lane.name == name)


@pytest.mark.parametrize("name", ["roundrobin", "broadcast", "pull", "lease", "solo", "alone"])
def test_the_harness_finds_an_element_that_is_lost(tmp_path: Path, name: str) -> None:
    one = world(tmp_path)
    everything(one)
    found = lane(one, name)
    found.seen = [seen for seen in found.seen if seen.number != 12]
    assert f"{name}: lost" in broken(one)


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("roundrobin", "doubled without a fault"),
        ("solo", "doubled without a fault"),
        ("broadcast", "pairs doubled without a fault"),
        ("pull", "given twice"),
        ("alone", "given twice"),
    ],
)
def test_the_harness_finds_an_element_that_came_twice(tmp_path: Path, name: str, word: str) -> None:
    one = world(tmp_path)
    everything(one)
    found = lane(one, name)
    give(found, 12, found.seen[-1].who, P=13 if name == "broadcast" else 0)
    assert f"{name}: {word}" in broken(one)


@pytest.mark.parametrize("name", ["roundrobin", "broadcast", "solo", "alone"])
def test_the_harness_finds_elements_out_of_order(tmp_path: Path, name: str) -> None:
    one = world(tmp_path)
    everything(one)
    found = lane(one, name)
    who = found.seen[-1].who
    mine = [place for place, seen in enumerate(found.seen) if seen.who == who]
    if len(mine) == 1:
        give(found, 1, who)
    else:
        a, b = mine[1:3]
        found.seen[a], found.seen[b] = found.seen[b], found.seen[a]
    assert f"{name}: disorder" in broken(one)


def test_the_harness_finds_two_orders_under_the_same_positions(tmp_path: Path) -> None:
    one = world(tmp_path)
    everything(one)
    found = lane(one, "broadcast")
    one.faults.append(Fault("kill", 0, one.began, one.began + 100))
    assert broken(one) == set()
    mine = [place for place, seen in enumerate(found.seen) if seen.who == found.seen[0].who]
    a, b = mine[1:3]
    first, second = found.seen[a], found.seen[b]
    found.seen[a], found.seen[b] = second._replace(place=first.place), first._replace(place=second.place)
    assert "broadcast: disorder" in broken(one)


@pytest.mark.parametrize("name", ["roundrobin", "pull", "once"])
def test_the_harness_finds_books_that_do_not_balance(tmp_path: Path, name: str) -> None:
    one = world(tmp_path)
    everything(one)
    lane(one, name).looks["imbalanced"] = 1
    assert broken(one) == {name} and "the books did not balance" in failures(findings(one))[0]


def test_the_harness_finds_a_consumer_that_hears_nothing(tmp_path: Path) -> None:
    one = world(tmp_path)
    everything(one)
    for name in ("roundrobin", "broadcast"):
        found = lane(one, name)
        deaf, other, *_ = found.names
        found.seen = [
            seen._replace(who=other) if seen.who == deaf else seen
            for seen in found.seen
            if name == "roundrobin" or seen.who != deaf
        ]
    assert {"roundrobin: uneven", "broadcast: pairs missing", "broadcast: holes"} <= broken(one)


@pytest.mark.parametrize("name", ["slow", "behind"])
def test_the_harness_finds_what_a_slow_reader_is_owed(tmp_path: Path, name: str) -> None:
    one = world(tmp_path)
    everything(one)
    found = lane(one, name)
    slow = next(iter(found.names))
    assert found.pause(slow, found.slow) == 1
    found.ended.append(Ended(slow, 0, one.began))
    assert broken(one) == {f"{name}: dropped"}
    found.seen = [seen for seen in found.seen if (seen.who, seen.number) != (slow, 12)]
    assert f"{name}: pairs missing" in broken(one)
    assert (f"{name}: lost" in broken(one)) == (name == "slow")  # it was delivered to nobody else


def test_the_harness_finds_a_stream_that_ended_by_itself(tmp_path: Path) -> None:
    one = world(tmp_path)
    everything(one)
    now = time.monotonic()
    one.faults.append(Fault("kill", 1, now - 1, now))
    lane(one, "roundrobin").ended.append(Ended("c0", 1, now))
    assert broken(one) == set()
    lane(one, "lease").ended.append(Ended("c0", 0, now))
    assert broken(one) == {"lease: dropped"}


def test_the_harness_finds_a_gap_that_need_not_be(tmp_path: Path) -> None:
    one = world(tmp_path)
    everything(one)
    found = lane(one, "broadcast")
    found.seen = [seen for seen in found.seen if (seen.who, seen.number) != ("c0", 5)]
    assert {"broadcast: pairs missing", "broadcast: holes"} == broken(one)
    found.gaps.append(("c0", 5, 5))
    assert broken(one) == {"broadcast: announced, but kept"}


def test_the_harness_finds_what_never_waits_again_or_is_left(tmp_path: Path) -> None:
    one = world(tmp_path)
    everything(one)
    found = lane(one, "once")
    found.alone["b"], found.found["b"] = ("/q/b?lease=1", False, 0.0), {"state": "leased", "lease_ends_in": 0}
    found.alone["c"], found.found["c"] = ("/q/c/1?lease=0", False, 0.0), {"state": "leased", "lease_ends_in": 9}
    found.alone["d"], found.found["d"] = ("/q/d?lease=1", False, 0.0), None
    lane(one, "roundrobin").books["leased"] = 1
    lane(one, "pull").books["taken"] = 13
    assert broken(one) == {"once: never waiting again", "once: lost", "roundrobin: left over", "pull: off the books"}


@pytest.mark.parametrize(
    ("kind", "of", "began", "ended", "why"),
    [
        ("kill", 0, -1, 0, "it explains this"),
        ("killall", -1, -1, 0, "it was all of them"),
        ("stop", 0, -1, 2, "it slept for long"),
        ("cut", 0, -1, 0, "not for so long that others took over"),
        ("redis", -1, -3, 0, "nobody was given up"),
        ("fill", 0, -1, 0, "nobody that died"),
        ("leave", -1, -1, 0, "nobody that died"),
        ("kill", 1, -1, 0, "another instance"),
        ("kill", 0, 9, 10, "long after it was given"),
        ("kill", 0, -30, -20, "long before"),
    ],
)
def test_a_double_needs_a_fault_of_its_instance_at_that_time(
    tmp_path: Path, kind: str, of: int, began: float, ended: float, why: str
) -> None:
    one = world(tmp_path)
    everything(one)
    now = time.monotonic()
    one.faults.append(Fault(kind, of, now + began, now + ended))
    give(lane(one, "roundrobin"), 12, lane(one, "roundrobin").seen[-1].who)
    for who in lane(one, "broadcast").names:
        give(lane(one, "broadcast"), 12, who, P=13)
    doubled = {"roundrobin: doubled without a fault", "broadcast: pairs doubled without a fault"}
    assert broken(one) == (set() if why.startswith("it ") else doubled)


@pytest.mark.parametrize(
    ("kind", "left", "lost"),
    [("cut", False, 0), ("cut", True, 0), ("stop", False, 0), ("stop", True, 1), ("", True, 1)],
)
def test_who_leaves_while_it_waits_is_no_excuse_for_what_is_lost(
    tmp_path: Path, kind: str, left: bool, lost: int
) -> None:
    one = world(tmp_path)
    everything(one)
    now = time.monotonic()
    one.faults += [Fault(kind, 2, now - 1, now)] if kind else []
    found = lane(one, "pull")
    found.seen = [seen for seen in found.seen if seen.number != 12]
    found.cuts = [Cut(now - 0.5, now - 0.1, 2, left), Cut(now - 0.5, now - 0.1, 1, True)]
    assert found.audit()["lost"] == lost
    assert found.audit()["off the books"] == 0


def test_nginx_names_the_instance_that_answered_last(tmp_path: Path) -> None:
    one = world(tmp_path)
    one.instances = [on_port(port) for port in (9901, 9902, 9903)]
    found = lane(one, "roundrobin")
    assert found.served(b"X-Upstream: 127.0.0.1:9901, 127.0.0.1:9903\r\nX: 1:9902\r\n", 0) == 2
    assert found.served(b"Server: RestMQ\r\n", 1) == 1


def test_a_broadcast_comes_again_only_when_nobody_is_left_who_heard_it(tmp_path: Path) -> None:
    one = world(tmp_path)
    everything(one)
    found = lane(one, "broadcast")
    now = time.monotonic()
    one.faults.append(Fault("kill", 0, now - 1, now))
    for who in found.names:
        give(found, 12, who, 1, P=13)
    assert broken(one) == set()
    found.homes["c1"].append((one.began - 2, 1))
    assert broken(one) == {"broadcast: pairs doubled without a fault"}


@pytest.mark.parametrize(
    ("of", "asked", "ended", "explained"), [(1, -3, 0, True), (0, -3, 0, False), (1, -1, 0, False), (1, -3, -1, False)]
)
def test_what_was_being_written_when_an_instance_was_stopped_goes_out_when_it_wakes(
    tmp_path: Path, of: int, asked: float, ended: float, explained: bool
) -> None:
    one = world(tmp_path)
    everything(one)
    found, now = lane(one, "roundrobin"), time.monotonic()
    found.asked_at[12] = now + asked  # and answered when the instance woke
    one.faults.append(Fault("stop", of, now - 3, now + ended))
    give(found, 12, found.seen[-1].who, 1)
    assert broken(one) == (set() if explained else {"roundrobin: doubled without a fault"})


def test_an_instance_that_is_heard_again_gives_nothing_twice(tmp_path: Path) -> None:
    one = world(tmp_path)
    everything(one)
    now = time.monotonic()
    one.faults.append(Fault("deaf", 0, now - 3, now))
    give(lane(one, "roundrobin"), 12, lane(one, "roundrobin").seen[-1].who)
    assert broken(one) == {"roundrobin: doubled without a fault"}
