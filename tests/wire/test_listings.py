"""Looking at queues on the wire: elements by state, the dead, the books, and the rates. Nothing is touched by it."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from restmq.api.rates import Rates
from restmq.api.stats import STATES
from restmq.store.library import Library
from tests.support.listener import Listener
from tests.support.patience import PATIENCE, until
from tests.support.requests import BATCH, FORM, TEXT, batch_add, stats, texts

COLUMNS = (
    "added waiting delayed leased dead taken delivered acked deleted expired purged dropped bytes imbalance"
).split()
MIB = 1 << 20


class Store:
    """The functions for one queue of the shared instance, to bring elements into every state."""

    def __init__(self, link: Any, queue: str) -> None:
        self.link, self.key = link, f"restmq:{{{queue}}}:"
        self.library = Library()

    def __call__(self, verb: str, *words: Any) -> Any:
        return self.link.fcall(self.library.functions[verb], 1, self.key + "m", 0, *words)

    def add(self, *values: str, **options: int) -> int:
        """Add values; answers the first number."""
        options = {"all": 1, **options}
        first: int = self("add", int(time.time() * 1000), json.dumps(options), "birth", *values)[0]
        return first

    def lease(self, many: int, ms: int = 3_600_000) -> list[tuple[bytes, bytes, bytes]]:
        """Lease the oldest; answers N, D and epoch of each."""
        epoch, *words = self("lease", many, ms, "{}")
        return [(words[at], words[at + 3], epoch) for at in range(0, len(words) - 3, 4)]

    def kill(self, many: int, reason: str = "no such file") -> None:
        """The oldest fail, and are dead: the settings let them try once."""
        self.link.hset(self.key + "a", "max_deliveries", 1)
        self("set", "birth", "max_deliveries", 1)
        for lease in self.lease(many):
            self("nack", *lease, "", 1, reason)

    def everything(self) -> dict[bytes, Any]:
        """All of the queue in Redis, as it lies there."""
        return {key: self.link.dump(key) for key in self.link.scan_iter(self.key.replace("{", "\\{") + "*")}


@pytest.fixture
def store(redis_server: Any, queue: str) -> Store:
    return Store(redis_server.client(), queue)


def look(instance: Any, path: str) -> Any:
    """GET a JSON document that ends in CRLF."""
    status, headers, body = instance.http("GET", path)
    assert (status, headers["content-type"], body[-2:]) == (200, "application/json", b"\r\n"), body
    return json.loads(body)


def problem(instance: Any, method: str, path: str, body: str | None = None) -> tuple[int, str]:
    """An error's status and word."""
    status, _, answer = instance.http(method, path, body, FORM)
    return status, json.loads(answer).get("type", "").replace("urn:restmq:", "")


# Elements


def test_an_element_is_shown_in_its_state_with_what_that_tells(instance: Any, queue: str, store: Store) -> None:
    store.add("olá", "waits")
    store.kill(1)
    store.add("leased")
    store.lease(2)
    store.add("later", delay=60_000)
    store.add("ends", ttl=60_000)
    shown = {state: look(instance, f"/peek/{queue}?state={state}")["elements"] for state in STATES}
    ages = [one.pop("age") for found in shown.values() for one in found]
    assert len(ages) == 5 and all(0 <= age < 60 for age in ages)
    times = (("delayed", "due_in", 60), ("waiting", "expires_in", 60), ("leased", "lease_ends_in", 3600))
    for state, word, seconds in times:
        for one in shown[state]:
            assert seconds - 30 < one.pop(word) <= seconds
    plain = {"deliveries": 0, "count": 0}
    assert shown == {
        "waiting": [{"key": f"{queue}:5", "value": "ends", "state": "waiting", **plain}],
        "leased": [
            {"key": f"{queue}:{n}", "value": value, "state": "leased", "deliveries": 1, "count": 0}
            for n, value in ((2, "waits"), (3, "leased"))
        ],
        "delayed": [{"key": f"{queue}:4", "value": "later", "state": "delayed", **plain}],
        "dead": [
            {"key": f"{queue}:1", "value": "olá", "state": "dead", "deliveries": 1, "count": 0,
             "errors": ["no such file"]}
        ],
        "history": [],
    }  # fmt: skip


def test_looking_touches_nothing(instance: Any, queue: str, store: Store) -> None:
    store.add(*"abcdef")
    store.kill(1)
    store.lease(1)
    store.add("later", delay=3_600_000)
    for address in ("control", "settings", "stats"):
        instance.http("GET", f"/{address}/{queue}")  # the first use of a queue by an instance notes its epoch
    before = store.everything()
    assert len(before) > 4
    for state in STATES:
        look(instance, f"/peek/{queue}?state={state}&max=2")
    for address in ("dead", "ledger", "settings", "control"):
        look(instance, f"/{address}/{queue}")
    for path in (f"/stats/{queue}", f"/j/{queue}", f"/metrics?match={queue}"):
        assert instance.http("GET", path)[0] == 200
    assert store.everything() == before


@pytest.mark.parametrize("state", ["waiting", "leased", "delayed", "dead"])
def test_pages_of_a_look_join_without_gap_or_double(instance: Any, queue: str, store: Store, state: str) -> None:
    store.add(*map(str, range(1, 134)), **({"delay": 3_600_000} if state == "delayed" else {}))
    if state == "leased":
        store.lease(133)
    elif state == "dead":
        store.kill(133)
    found: list[str] = []
    after, sizes = "", []
    while True:
        page = look(instance, f"/peek/{queue}?state={state}&max=40{after}")
        assert (page["queue"], page["state"]) == (queue, state)
        sizes.append(len(page["elements"]))
        found += [one["value"] for one in page["elements"]]
        if "next" not in page:
            break
        after = f"&after={page['next']}"
    assert sizes == [40, 40, 40, 13]
    assert sorted(found, key=int) == list(map(str, range(1, 134)))
    assert len(look(instance, f"/peek/{queue}?state={state}")["elements"]) == 50
    assert "next" not in look(instance, f"/peek/{queue}?state={state}&max=133")
    if state == "dead":
        assert look(instance, f"/dead/{queue}?max=40") | {"elements": 0} == {
            "queue": queue, "state": "dead", "elements": 0, "next": f"{queue}:40"
        }  # fmt: skip


def test_history_is_shown_in_order_of_delivery(instance: Any, queue: str) -> None:
    listener = Listener(instance.port, f"/c/{queue}")
    try:
        for value in "abc":
            instance.form(f"/q/{queue}", f"value={value}")
        until(lambda: look(instance, f"/ledger/{queue}")["delivered"] == 3)
    finally:
        listener.close()
    page = look(instance, f"/peek/{queue}?state=history&max=2")
    assert [one["value"] for one in page["elements"]] == ["a", "b"]
    page = look(instance, f"/peek/{queue}?state=history&max=2&after={page['next']}")
    assert [one["value"] for one in page["elements"]] == ["c"]
    assert "next" not in page


def test_a_long_history_is_paged(instance: Any, queue: str) -> None:
    assert instance.form(f"/settings/{queue}", "history=5000")[0] == 200
    listener = Listener(instance.port, f"/c/{queue}")
    try:
        lines = "".join(f"{number}\n" for number in range(2500))
        assert instance.http("POST", f"/q/{queue}", lines, BATCH)[0] == 200
        until(lambda: look(instance, f"/ledger/{queue}")["delivered"] == 2500)
    finally:
        listener.close()
    shown, after = [], ""
    for _ in range(3):
        page = look(instance, f"/peek/{queue}?state=history&max=1000{after}")
        shown += [int(one["value"]) for one in page["elements"]]
        after = f"&after={page.get('next')}"
    assert shown == list(range(2500)) and "next" not in page


def test_a_look_ends_at_a_mib_of_values_and_goes_on_from_there(instance: Any, queue: str) -> None:
    for size in (400_000, 400_000, 400_000, MIB, 10, 10):
        assert instance.http("POST", f"/q/{queue}", "x" * size, TEXT)[0] == 200
    numbers, after = [], ""
    for _ in range(4):
        page = look(instance, f"/peek/{queue}?max=1000{after}")
        numbers.append([one["key"].rpartition(":")[2] for one in page["elements"]])
        after = f"&after={page.get('next')}"
    assert numbers == [["1", "2"], ["3"], ["4"], ["5", "6"]] and "next" not in page


@pytest.mark.parametrize("state", ["leased", "delayed", "history"])
def test_a_place_that_is_gone_is_410(instance: Any, queue: str, store: Store, state: str) -> None:
    store.add("a", "b")
    assert problem(instance, "GET", f"/peek/{queue}?state={state}&after={queue}:1") == (410, "gone")
    assert problem(instance, "GET", f"/peek/{queue}?state={state}&after={queue}:99") == (410, "gone")


@pytest.mark.parametrize(
    ("query", "word"),
    [
        ("state=wating", "bad-option"),
        ("state=one", "bad-option"),
        ("max=0", "bad-option"),
        ("max=1001", "bad-option"),
        ("statee=dead", "bad-option"),
        ("after=1", "bad-key"),
        ("after=other:1", "bad-key"),
        ("after={}:0", "bad-key"),
    ],
)
def test_a_wrong_look_is_400(instance: Any, queue: str, query: str, word: str) -> None:
    assert problem(instance, "GET", f"/peek/{queue}?{query.replace('{}', queue)}") == (400, word)


def test_a_queue_that_nobody_used_is_looked_at_and_not_made(instance: Any, queue: str) -> None:
    for state in STATES:
        assert look(instance, f"/peek/{queue}?state={state}") == {"queue": queue, "state": state, "elements": []}
    assert look(instance, f"/dead/{queue}")["elements"] == []
    assert set(list(look(instance, f"/ledger/{queue}").values())[1:]) == {0}
    assert json.loads(instance.http("GET", f"/stats/?match={queue}")[2])["count"] == 0


# The dead


def test_the_dead_are_sent_back_by_number_or_by_key_and_the_rest_deleted(
    instance: Any, queue: str, store: Store
) -> None:
    store.add(*"abcdef")
    store.kill(6, "boom")
    assert [one["errors"] for one in look(instance, f"/dead/{queue}")["elements"]] == [["boom"]] * 6
    assert instance.http("GET", f"/q/{queue}")[0] == 204

    def post(body: str) -> Any:
        status, answer = instance.form(f"/dead/{queue}", body)
        assert status == 200, answer
        return json.loads(answer)

    assert post("kick=2") == {"queue": queue, "kicked": [f"{queue}:1", f"{queue}:2"]}
    assert post(f"keys={queue}:6,{queue}:1,{queue}:4,{queue}:99,{queue}:4")["kicked"] == [f"{queue}:6", f"{queue}:4"]
    waiting = look(instance, f"/peek/{queue}")["elements"]
    assert [(one["value"], one["deliveries"], one["errors"]) for one in waiting] == [
        (value, 1, ["boom"]) for value in "abdf"
    ]
    assert json.loads(instance.http("DELETE", f"/dead/{queue}")[2]) == {"queue": queue, "deleted": 2}
    assert json.loads(instance.http("DELETE", f"/dead/{queue}")[2]) == {"queue": queue, "deleted": 0}
    books = look(instance, f"/ledger/{queue}")
    assert (books["waiting"], books["dead"], books["deleted"], books["imbalance"]) == (4, 0, 2, 0)
    store.lease(1)  # its tries start anew: with one allowed it may try, and fail, again
    assert look(instance, f"/peek/{queue}?state=leased")["elements"][0]["deliveries"] == 2


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ("", "bad-option"),
        ("kick=", "bad-option"),
        ("kick=0", "bad-option"),
        ("kick=-1", "bad-option"),
        ("kick=10001", "bad-option"),
        ("kick=1&keys={}:1", "bad-option"),
        ("keys={}:1,", "bad-key"),
        ("keys={}:1,other:2", "bad-key"),
        ("keys=" + ",".join(["{}:1"] * 1001), "bad-option"),
    ],
)
def test_a_wrong_kick_is_400_and_sends_nothing_back(
    instance: Any, queue: str, store: Store, body: str, word: str
) -> None:
    store.add("a")
    store.kill(1)
    assert problem(instance, "POST", f"/dead/{queue}", body.replace("{}", queue)) == (400, word)
    assert problem(instance, "POST", f"/dead/{queue}?callback=1", "kick=1") == (400, "bad-option")
    assert problem(instance, "DELETE", f"/dead/{queue}?callback=1") == (400, "bad-option")
    assert problem(instance, "DELETE", f"/dead/{queue}?forget=1") == (400, "bad-option")
    assert len(look(instance, f"/dead/{queue}")["elements"]) == 1


# Books and rates


def test_the_books_have_every_element_in_one_column(instance: Any, queue: str, store: Store) -> None:
    store.add(*"abcdefgh")
    store.kill(1)
    store.lease(1)
    store.add("later", delay=60_000)
    instance.http("GET", f"/q/{queue}")
    instance.http("DELETE", f"/q/{queue}/4")
    books = look(instance, f"/ledger/{queue}")
    assert list(books) == ["queue", *COLUMNS]
    told = dict.fromkeys(COLUMNS, 0) | {"added": 9, "waiting": 4, "delayed": 1, "leased": 1, "dead": 1, "taken": 1}
    assert books == {"queue": queue, **told, "deleted": 1, "bytes": 11}
    instance.http("DELETE", f"/q/{queue}")
    books = look(instance, f"/ledger/{queue}")
    assert (books["purged"], books["waiting"], books["bytes"], books["imbalance"]) == (7, 0, 0, 0)
    stats = json.loads(instance.http("GET", f"/stats/{queue}")[2])
    assert {word: stats[word] for word in stats if word in books and word != "queue"} == {
        word: books[word] for word in COLUMNS if word not in ("waiting", "imbalance")
    }


def numbers(name: str, added: int, taken: int) -> dict[str, Any]:
    return {"name": name, "added": added, "taken": taken, "delivered": 0, "acked": 0}


def test_a_rate_is_what_happened_since_the_look_before() -> None:
    rates, clock = Rates(), [100.0]
    rates.now = lambda: clock[0]
    assert rates.of(numbers("q", 50, 7)) == {"add_rate": None, "out_rate": None}
    clock[0] += 0.5
    assert rates.of(numbers("q", 60, 7)) == {"add_rate": None, "out_rate": None}
    clock[0] += 1.5  # two seconds after the first look
    assert rates.of(numbers("q", 70, 8)) == {"add_rate": 10.0, "out_rate": 0.5}
    clock[0] += 0.9  # too soon: what was told before
    assert rates.of(numbers("q", 99, 9)) == {"add_rate": 10.0, "out_rate": 0.5}
    clock[0] += 9.1
    assert rates.of(numbers("q", 70, 8)) == {"add_rate": 0.0, "out_rate": 0.0}
    clock[0] += 5
    assert rates.of(numbers("q", 1, 0)) == {"add_rate": None, "out_rate": None}  # forgotten, and made anew


@given(st.lists(st.integers(0, 9), max_size=60))
def test_rates_remember_so_many_queues_and_no_more(looks: list[int]) -> None:
    rates, clock = Rates(), [0.0]
    rates.MOST, rates.now = 4, lambda: clock[0]
    last: list[int] = []
    for which in looks:
        clock[0] += 2
        known = rates.of(numbers(str(which), 1, 1))["add_rate"] is not None
        assert known == (which in last)
        last = [*[one for one in last if one != which][-3:], which]


def test_stats_have_rates_at_the_second_look(instance: Any, queue: str) -> None:
    instance.form(f"/q/{queue}", "value=x")
    first = json.loads(instance.http("GET", f"/stats/{queue}")[2])
    assert (first["add_rate"], first["out_rate"]) == (None, None)
    instance.form(f"/q/{queue}", "value=x")
    looks: list[Any] = []

    def known() -> bool:
        looks.append(json.loads(instance.http("GET", f"/stats/?match={queue}")[2])["queues"][queue])
        return looks[-1]["add_rate"] is not None

    until(known)
    assert 0 < looks[-1]["add_rate"] <= 1 and looks[-1]["out_rate"] == 0


def test_what_is_on_its_way_is_listed_behind_what_is_leased_page_by_page(
    instance: Any, store: Store, queue: str
) -> None:
    """An instance that hears, but hands nothing over, holds it: no socket takes some of it meanwhile."""
    assert instance.form(f"/p/{queue}", "policy=roundrobin")[0] == 200
    batch_add(instance, queue, *texts(30))
    for _ in range(3):
        assert instance.http("GET", f"/q/{queue}?lease=1h&max=3")[0] == 200
    hears = store.link.pubsub()
    hears.subscribe(f"{store.key}i0:idle")
    assert hears.get_message(timeout=PATIENCE)["type"] == "subscribe"
    store("listen", "idle", 1, 64, 1, 0, "", 0, 0, "{}", "epoch", 0)
    away = stats(instance, queue)["leased"]
    assert away == 30
    found: list[int] = []
    after = ""
    while True:
        page = look(instance, f"/peek/{queue}?state=leased&max=4{after}")["elements"]
        found += [int(one["key"].rpartition(":")[2]) for one in page]
        assert {one["state"] for one in page} <= {"leased"}
        if not page:
            break
        after = f"&after={page[-1]['key']}"
    assert sorted(found[:9]) == list(range(1, 10))
    assert found[9:] == sorted(found[9:])
    assert len(set(found)) == len(found) == away
    store("reap", "idle", "0")
    hears.close()
