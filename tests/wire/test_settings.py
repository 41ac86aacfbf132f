"""A queue's settings: what each may be, how it is told and shown, and that it holds."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from restmq.config import ConfigError, load
from restmq.model import settings
from restmq.model.errors import BadOption, BadRequest
from tests.support.patience import until
from tests.support.requests import FORM, add

DEFAULTS = {
    "policy": "broadcast", "history": 1000, "history_bytes": 1 << 20, "max_deliveries": 0, "backoff": "none",
    "dead_ttl": "0s", "max_length": 0, "max_bytes": 0, "overflow": "refuse", "idle_ttl": "0s",
}  # fmt: skip
YEAR_MS = 366 * 86_400_000
JSON = {"Content-Type": "application/json"}
times = st.integers(0, YEAR_MS)
waits = st.integers(1, YEAR_MS)
values = st.one_of(
    st.tuples(st.just("policy"), st.sampled_from(settings.POLICIES)),
    st.tuples(st.just("overflow"), st.sampled_from(["refuse", "drop_oldest"])),
    st.tuples(st.sampled_from(["history", "max_deliveries"]), st.integers(0, 1_000_000)),
    st.tuples(st.just("history_bytes"), st.integers(0, 1 << 30)),
    st.tuples(st.sampled_from(["max_length", "max_bytes"]), st.integers(0, settings.MOST)),
    st.tuples(st.sampled_from(["dead_ttl", "idle_ttl"]), times),
    st.tuples(st.just("backoff"), st.just("none")),
    st.tuples(st.just("backoff"), waits.map(lambda ms: f"fixed:{ms}")),
    st.tuples(st.just("backoff"), st.tuples(waits, waits).map(lambda two: f"exp:{min(two)}:{max(two)}")),
)


# What they may be


@given(values)
def test_what_is_shown_is_read_as_what_was_stored(setting: tuple[str, Any]) -> None:
    name, stored = setting
    shown = settings.shown({name: str(stored)}, settings.DEFAULTS)[name]
    assert settings.checked([(name, str(shown))]) == {name: str(stored)}
    assert settings.checked(settings.of_json(json.dumps({name: shown}).encode())) == {name: str(stored)}


@pytest.mark.parametrize(
    ("name", "text", "stored"),
    [
        ("dead_ttl", "90", "90000"),
        ("dead_ttl", "1.5", "1500"),
        ("idle_ttl", "2h", "7200000"),
        ("idle_ttl", "0", "0"),
        ("backoff", "none", "none"),
        ("backoff", "fixed:30s", "fixed:30000"),
        ("backoff", "exp:500ms:10m", "exp:500:600000"),
        ("max_bytes", "64k", "65536"),
        ("max_bytes", "1 MiB", "1048576"),
        ("history_bytes", "0", "0"),
        ("max_length", "", ""),
    ],
)
def test_settings_are_written_as_people_write_them(name: str, text: str, stored: str) -> None:
    assert settings.checked([(name, text)]) == {name: stored}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *(("policy", text) for text in ("random", "Broadcast", "roundrobin ")),
        *(("history", text) for text in ("-1", "1e3", "1.0", "1000001", "٣", "9" * 30, " 1")),
        *(("history_bytes", text) for text in ("1.5m", "1g", "2048m")),
        *(("max_length", text) for text in ("many", "1k", str(settings.MOST + 1))),
        *(("dead_ttl", text) for text in ("soon", "-1", "367d", "1w", "1e3")),
        *(("overflow", text) for text in ("drop", "REFUSE")),
        *(
            ("backoff", text)
            for text in (
                "30s", "fixed", "fixed:", "fixed:0", "fixed:1s:2s", "exp:1s", "exp:2s:1s", "exp:0:5s", "exp:1s:2s:3s",
                "linear:5s", "fixed:x", "exp:1s:367d", "none:1s",
            )
        ),
    ],
)  # fmt: skip
def test_a_wrong_value_is_an_error_that_names_its_setting(name: str, text: str) -> None:
    with pytest.raises(BadOption, match=rf"^{name}: .*; this is "):
        settings.checked([("overflow" if name != "overflow" else "policy", ""), (name, text)])


def test_an_unknown_setting_is_an_error_with_the_nearest_that_is_known() -> None:
    with pytest.raises(BadOption, match="no setting 'max_lenght'; did you mean 'max_length'?"):
        settings.checked([("history", "5"), ("max_lenght", "5")])
    with pytest.raises(BadOption, match="twice"):
        settings.checked([("history", "5"), ("history", "5")])


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (b"{", BadRequest),
        (b"[1]", BadRequest),
        (b"5", BadRequest),
        (b'{"history": 5}x', BadRequest),
        (b'{"history": "\xff"}', BadRequest),
        (b"[" * 100_000, BadRequest),
        (b'{"history": true}', BadOption),
        (b'{"history": [5]}', BadOption),
        (b'{"history": {}}', BadOption),
        (b'{"history": 5.0}', BadOption),
        (b'{"dead_ttl": NaN}', BadRequest),
        (b'{"history": 5, "history": 5}', BadRequest),
    ],
)
def test_json_that_is_none_or_holds_what_no_setting_is_is_refused(text: bytes, error: Any) -> None:
    with pytest.raises(error):
        settings.checked(settings.of_json(text))


def test_every_setting_is_shown_with_its_default() -> None:
    assert settings.shown({}, settings.DEFAULTS) == DEFAULTS


# The wire


def post(instance: Any, queue: str, body: str, headers: dict[str, str] = FORM, query: str = "") -> Any:
    """POST settings that are accepted."""
    status, told, answer = instance.http("POST", f"/settings/{queue}{query}", body, headers)
    assert (status, told["content-type"], answer[-2:]) == (200, "application/json", b"\r\n"), answer
    return json.loads(answer)


def refused(instance: Any, queue: str, body: str, headers: dict[str, str] = FORM, query: str = "") -> str:
    """POST settings that are not; what is wrong with them."""
    status, _, answer = instance.http("POST", f"/settings/{queue}{query}", body, headers)
    assert status == 400, answer
    text: str = json.loads(answer)["error"]
    return text


def get(instance: Any, queue: str) -> Any:
    return json.loads(instance.http("GET", f"/settings/{queue}")[2])


def test_settings_are_set_by_form_json_query_and_header_and_taken_back(instance: Any, queue: str) -> None:
    assert get(instance, queue) == {"queue": queue, "settings": DEFAULTS, "own": []}
    assert instance.http("GET", f"/stats/?match={queue}")[2].startswith(b'{"count": 0')  # looking made no queue
    own = {"history": 5, "dead_ttl": "90s"}
    wanted = {"queue": queue, "settings": {**DEFAULTS, **own}, "own": ["history", "dead_ttl"]}
    assert post(instance, queue, "history=5&dead_ttl=1.5m") == wanted
    assert get(instance, queue) == wanted
    assert post(instance, queue, '{"history": null, "dead_ttl": ""}', JSON)["own"] == []
    assert post(instance, queue, '{"dead_ttl": 90, "history": "5"}') == wanted  # whatever its type
    assert post(instance, queue, "history=&dead_ttl=")["settings"] == DEFAULTS
    headers = {"RestMQ-Dead-Ttl": "90", **FORM}
    assert post(instance, queue, "history=7&dead_ttl=1", headers, "?history=5") == wanted
    assert post(instance, queue, "policy=roundrobin")["settings"]["policy"] == "roundrobin"
    assert json.loads(instance.http("GET", f"/p/{queue}")[2])["value"] == "roundrobin"
    assert post(instance, queue, "policy=")["own"] == ["history", "dead_ttl"]
    assert json.loads(instance.http("GET", f"/p/{queue}")[2])["value"] == "broadcast"


def test_settings_are_set_all_or_none(instance: Any, queue: str) -> None:
    post(instance, queue, "max_length=7")
    before = get(instance, queue)
    assert "did you mean 'history'?" in refused(instance, queue, "max_length=9&histroy=5")
    assert "max_bytes: " in refused(instance, queue, '{"max_length": 9, "max_bytes": "x"}', JSON)
    assert "did you mean 'history'?" in refused(instance, queue, "max_length=9", query="?histori=5")
    assert "twice" in refused(instance, queue, "max_length=9&max_length=8")
    assert "twice" in refused(instance, queue, "max_length=&max_length=")
    assert "nothing to set" in refused(instance, queue, "")
    assert "nothing to set" in refused(instance, queue, "{}", JSON)
    assert "callback" in refused(instance, queue, "max_length=9", query="?callback=1")
    assert "not known" in refused(instance, queue, "max_length=9", query="?status=1")
    assert "JSON" in refused(instance, queue, "max_length=9", {"Content-Type": "text/plain"})
    assert instance.http("POST", f"/settings/{queue}", "{" + " " * 70_000 + "}", JSON)[0] == 413
    assert get(instance, queue) == before


def test_bounds_hold_for_what_is_added_after_the_answer(instance: Any, other: Any, queue: str) -> None:
    post(instance, queue, "max_length=2")
    answers = [other.form(f"/q/{queue}", f"value={n}")[0] for n in range(3)]
    assert answers == [200, 200, 429]
    post(other, queue, "overflow=drop_oldest")
    assert instance.form(f"/q/{queue}", "value=3")[0] == 200
    assert json.loads(instance.http("GET", f"/q/{queue}")[2])["value"] == "1"
    post(instance, queue, '{"max_length": null, "max_bytes": 10}', JSON)
    assert other.form(f"/q/{queue}", "value=12345678901")[0] == 413
    assert [instance.form(f"/q/{queue}", "value=1234")[0] for _ in range(5)] == [200] * 5
    assert json.loads(instance.http("GET", f"/ledger/{queue}")[2])["bytes"] <= 10


def test_restmq_conf_says_what_a_queue_was_not_told(start: Any, queue: str) -> None:
    conf = "[redis]\ndbid = 5\n[queues]\nmax_length = 1\nbackoff = exp:1s:10m\ndead_ttl = 90\nhistory_bytes = 64k\n"
    one = start(conf)
    told = {"max_length": 1, "backoff": "exp:1s:10m", "dead_ttl": "90s", "history_bytes": 65536}
    assert get(one, queue) == {"queue": queue, "settings": {**DEFAULTS, **told}, "own": []}
    assert [one.form(f"/q/{queue}", "value=x")[0] for _ in range(2)] == [200, 429]
    assert post(one, queue, "backoff=none&max_length=0") == {
        "queue": queue, "settings": {**DEFAULTS, **told, "backoff": "none", "max_length": 0},
        "own": ["backoff", "max_length"],
    }  # fmt: skip
    assert one.form(f"/q/{queue}", "value=x")[0] == 200
    assert post(one, queue, "backoff=&max_length=")["settings"]["backoff"] == "exp:1s:10m"
    assert one.form(f"/q/{queue}", "value=x")[0] == 429
    again = start("[redis]\ndbid = 5\n[queues]\ndead_ttl = 5m\n")
    assert get(again, queue)["settings"] == {**DEFAULTS, "dead_ttl": "5m"}  # what it was not told follows restmq.conf


def test_a_queue_is_forgotten_for_idleness_when_only_restmq_conf_says_so(start: Any, queue: str) -> None:
    instance = start("[queues]\nidle_ttl = 500ms\n")
    add(instance, queue, "a")
    assert instance.http("GET", f"/q/{queue}")[0] == 200
    until(lambda: queue not in json.loads(instance.http("GET", "/stats/")[2])["queues"])


def test_restmq_conf_says_the_policy_of_new_queues(start: Any, listen: Any, queue: str) -> None:
    def policies(where: Any, name: str) -> list[str]:
        told = [json.loads(where.http("GET", f"/{page}/{name}")[2]) for page in ("p", "stats")]
        return [told[0]["value"], told[1]["policy"], get(where, name)["settings"]["policy"]]

    one = start("[redis]\ndbid = 6\n[queues]\npolicy = roundrobin\n")
    assert policies(one, queue) == ["roundrobin"] * 3
    assert get(one, queue)["own"] == []
    assert one.http("GET", "/q/")[2].count(queue.encode()) == 0  # it was looked at, no more
    add(one, queue, "0")
    add(one, queue, "1")
    some = [listen(one, f"/c/{queue}") for _ in range(2)]
    for value in "2345":
        add(one, queue, value)
    until(lambda: sum(len(each.quiet(0.05).elements) for each in some) == 6)
    assert sorted(value for each in some for value in each.values) == list("012345")
    assert {len(each.values) for each in some} <= {2, 3, 4}
    assert one.form(f"/p/{queue}", "policy=broadcast")[0] == 200
    assert policies(one, queue) == ["broadcast"] * 3
    assert post(one, queue, "policy=")["settings"]["policy"] == "roundrobin"  # taken back
    assert one.http("DELETE", f"/q/{queue}?forget=1")[0] == 200
    assert policies(one, queue) == ["roundrobin"] * 3
    again = start("[redis]\ndbid = 6\n")
    add(again, f"{queue}-new")
    assert policies(again, f"{queue}-new") == ["broadcast"] * 3
    assert policies(again, queue) == ["roundrobin"] * 3  # it is older


def test_a_policy_of_restmq_conf_is_one_of_two(tmp_path: Any) -> None:
    path = tmp_path / "restmq.conf"
    path.write_text("[queues]\npolicy = random\n")
    with pytest.raises(ConfigError, match="broadcast or roundrobin"):
        load(path)
