"""Loads the Lua scripts and expands their includes.

Owns lua/*.lua as text and digest; knows nothing of what they do: each file's
head is its contract, lua/lib/keys.lua tells the keyspace. Read redis.py next.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

FOLDER = Path(__file__).parent / "lua"
_INCLUDE = re.compile(r"^--@include (\w+)\n", re.MULTILINE)
# All but an add go on when Redis is full: they free memory, or note a little so that somebody else can.
_GROWING = frozenset({"add"})
_COMMENT = re.compile(r"^\s*--.*\n", re.MULTILINE)


class Script:
    """One verb: its name, its text and the digest by which Redis knows it (EVALSHA)."""

    __slots__ = ("name", "sha", "text")

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self.text = text.encode("utf-8")
        self.sha = hashlib.sha1(self.text).hexdigest().encode("ascii")


def load(history: int = 1000, history_bytes: int = 1 << 20) -> dict[str, Script]:
    """Every script by its name. The two numbers bound a queue's history: elements, bytes."""
    parts = {path.stem: path.read_text("utf-8") for path in (FOLDER / "lib").glob("*.lua")}

    def expand(text: str) -> str:
        text = _INCLUDE.sub(lambda found: expand(parts[found[1]]), text)
        return text.replace("@history@", str(history)).replace("@history_bytes@", str(history_bytes))

    def text(path: Path) -> str:
        allowed = "" if path.stem in _GROWING else "#!lua flags=allow-oom\n"
        return allowed + _COMMENT.sub("", expand(path.read_text("utf-8")))

    return {
        path.stem: Script(path.stem, text(path))
        for path in sorted(FOLDER.glob("*.lua"))
    }
