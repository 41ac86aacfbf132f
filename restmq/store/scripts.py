"""Loads the Lua scripts and expands their includes.

Owns lua/*.lua as text and digest; knows nothing of what they do: each file's
head is its contract, lua/lib/keys.lua tells the keyspace. Read store/connection.py next.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

from restmq.model.settings import RULES

FOLDER = Path(__file__).parent / "lua"
_INCLUDE = re.compile(r"^--@include (\w+)\n", re.MULTILINE)
# All but an add go on when Redis is full: they free memory, or note a little so that somebody else can.
_GROWING = frozenset({"add"})
_WORD = re.compile(r"@(\w+)@")
_COMMENT = re.compile(r"^\s*--.*\n", re.MULTILINE)


class Script:
    """One verb: its name, its text and the digest by which Redis knows it (EVALSHA)."""

    __slots__ = ("name", "sha", "text")

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self.text = text.encode("utf-8")
        self.sha = hashlib.sha1(self.text).hexdigest().encode("ascii")


def load(rules: Mapping[str, object] | None = None, time: str = "call('TIME')") -> dict[str, Script]:
    """Every script by its name, with the rules of restmq.conf, and where they read the time (TIME)."""
    parts = {path.stem: path.read_text("utf-8") for path in (FOLDER / "lib").glob("*.lua")}
    told = {**RULES, **(rules or {})}
    plain = ("policy", "history", "history_bytes")  # these bind no add: a queue may have them and take the hot path
    ruled = any(value != RULES[name] for name, value in told.items() if name not in plain)
    fresh = 16 if told["policy"] == "roundrobin" else 0  # the flags of a queue that was never used: see state.lua
    words = {**told, "time": time, "ruled": "true" if ruled else "false", "fresh": fresh}

    def expand(text: str) -> str:
        text = _INCLUDE.sub(lambda found: expand(parts[found[1]]), text)
        return _WORD.sub(lambda found: str(words[found[1]]), text)

    def text(path: Path) -> str:
        allowed = "" if path.stem in _GROWING else "#!lua flags=allow-oom\n"
        return allowed + _COMMENT.sub("", expand(path.read_text("utf-8")))

    return {path.stem: Script(path.stem, text(path)) for path in sorted(FOLDER.glob("*.lua"))}
