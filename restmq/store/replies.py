"""Replies: the functions' answers about a queue, and Redis' about itself, as names and numbers.

Owns the columns of look.lua and peek.lua and their order. Asks nothing of Redis: store/inspection.py does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from restmq.model.errors import Unavailable

COLUMNS = tuple("added waiting delayed leased dead taken delivered acked deleted expired purged dropped bytes".split())


class Peeked(NamedTuple):
    """One element that was looked at.

    `age_ms` is the time since it was added. `left_ms` is the time until it is due, or until its lease or its ttl ends;
    None when nothing ends. Both are in ms, by Redis' clock.
    """

    queue: bytes
    number: int
    state: str
    value: bytes
    deliveries: int
    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody needs
    age_ms: int
    left_ms: int | None
    errors: list[str]


def ledger(reply: Sequence[Any]) -> dict[str, int]:
    """look.lua's reply as the ledger: `added` is the sum of the others but `bytes`; `imbalance` is the difference."""
    columns = dict(zip(COLUMNS, reply))
    columns["imbalance"] = 2 * columns["added"] - sum(columns[word] for word in COLUMNS[:-1])
    return columns


def status(reply: Sequence[Any]) -> int:
    """look.lua's reply: 1 while elements flow to live consumers, 0 while that is stopped."""
    return int(reply[13])


def policy(reply: Sequence[Any]) -> str:
    """look.lua's reply: how elements are given to live consumers, broadcast or roundrobin."""
    return "roundrobin" if reply[14] else "broadcast"


def stats(queue: bytes, reply: Sequence[Any]) -> dict[str, object]:
    """look.lua's reply in the form of /stats."""
    columns = ledger(reply)
    words = (word for word in COLUMNS if word != "waiting")
    return {
        "name": queue.decode("utf-8"),
        "len": columns["waiting"],
        "status": status(reply),
        "policy": policy(reply),
        "consumers": reply[16],
        "waiters": reply[18],
        **{word: columns[word] for word in words},
    }


def peeked(queue: bytes, reply: Sequence[bytes]) -> list[Peeked]:
    """peek.lua's reply as elements."""
    found = []
    for at in range(0, len(reply), 8):
        number, state, value, deliveries, count, age, left, errors = reply[at : at + 8]
        lines = [line for line in errors.decode("utf-8", "replace").split("\n") if line]
        ends = int(left) if left else None
        found.append(
            Peeked(queue, int(number), state.decode(), value, int(deliveries), int(count), int(age), ends, lines)
        )
    return found


#: The name under which a state shows the seconds that are left of it.
_LEFT = {"leased": "lease_ends_in", "delayed": "due_in"}


def shown(one: Peeked) -> dict[str, object]:
    """One element as a document for clients, with times in seconds."""
    queue = one.queue.decode("utf-8")
    document: dict[str, object] = {
        "key": f"{queue}:{one.number}",
        "value": one.value.decode("utf-8"),
        "state": one.state,
        "deliveries": one.deliveries,
        "count": one.count,
        "age": one.age_ms / 1000,
    }
    if one.left_ms is not None:
        document[_LEFT.get(one.state, "expires_in")] = one.left_ms / 1000
    if one.errors:
        document["errors"] = one.errors
    return document


def health(said: Mapping[str, str]) -> list[str]:
    """The reasons why a Redis with these fields (INFO) does not serve well. Raises Unavailable while it loads data."""
    reasons = []
    if said.get("role", "master") not in ("master", "primary"):
        reasons.append("Redis is a replica: it takes no writes")
    if said.get("maxmemory", "0") != "0" and said.get("maxmemory_policy", "noeviction") != "noeviction":
        reasons.append(f"Redis evicts keys ({said['maxmemory_policy']}): set maxmemory-policy noeviction")
    most, used = int(said.get("maxmemory", 0)), int(said.get("used_memory", 0))
    if 0 < most <= used:
        reasons.append(f"Redis is full (maxmemory {most} bytes): it takes adds again when something was taken")
    if said.get("aof_enabled") == "0":
        reasons.append("Redis has no append-only file: what was acknowledged since its last snapshot can be lost")
    if said.get("aof_enabled") == "1" and said.get("aof_last_write_status", "ok") != "ok":
        reasons.append("Redis cannot write its append-only file: see its log, and whether its disk is full")
    if said.get("loading") == "1":
        raise Unavailable("Redis is loading its data")
    return reasons


def settings_in(words: Sequence[bytes]) -> dict[str, str]:
    """Settings from the words of a reply: name, text…"""
    texts = [word.decode() for word in words]
    return dict(zip(texts[::2], texts[1::2]))
