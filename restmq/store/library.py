"""The library: all Lua files as one text, which Redis runs as functions, or as a script where it loads none.

Owns the order of the files, the names under which Redis has them, and what of restmq.conf goes with each call. Knows
nothing of the work of the verbs: the head of each file is its contract, lua/lib/keys.lua has the keyspace.
docs/decisions/functions.md says why. Read lua/add.lua next.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from restmq.model.settings import DEFAULTS

FOLDER = Path(__file__).parent / "lua"
#: Each file uses only those before it.
MODULES = (
    "call keys queue settings element waiting stops leases waiters sent history delivery broadcasts bounds answers "
    "taking recovery emptying ending verbs"
).split()
TIME = "call('TIME')"
PREFIX = "restmq_"  # begins the names of all libraries and functions of RestMQ
_PLACE = re.compile(r"@(\w+)@")
_COMMENT = re.compile(r"^\s*--.*\n", re.MULTILINE)
_REGISTER = "redis.register_function{function_name='LIBRARY_VERB', callback=verbs.VERB.run, flags=verbs.VERB.flags}\n"
_RUN = "\nreturn verbs[ARGV[1]].run(KEYS, {unpack(ARGV, 2)})\n"


def source(time: str = TIME) -> str:
    """The text of all files in their order. `time` is the Lua expression by which it reads the time (TIME)."""
    names = [name for name in DEFAULTS if name != "policy"]
    words = {
        "time": time,
        "defaults": _table(f"{name} = {_literal(value)}" for name, value in DEFAULTS.items()),
        "names": _table(_literal(name) for name in names),
    }
    files = [FOLDER / "lib" / f"{name}.lua" for name in MODULES]
    modules = "".join(path.read_text("utf-8") for path in files)
    verbs = "".join(f"do\n{path.read_text('utf-8')}end\n" for path in _verbs())
    return _PLACE.sub(lambda found: words[found[1]], modules + verbs)


def _verbs() -> list[Path]:
    return sorted(FOLDER.glob("*.lua"))


def _table(items: Iterable[str]) -> str:
    return "{%s}" % ", ".join(items)


def _literal(value: object) -> str:
    return f"'{value}'" if isinstance(value, str) else str(value)


class Script:
    """The library as a script, and the digest by which Redis knows it (EVALSHA)."""

    __slots__ = ("sha", "text")

    def __init__(self, text: str) -> None:
        self.text = text.encode("utf-8")
        self.sha = hashlib.sha1(self.text).hexdigest().encode("ascii")


class Library:
    """One version of the library. Its `name` and the names of its functions carry a hash of its text.

    `growing` and `freeing` are scripts with the same text. A full Redis refuses `growing`, which verbs use that need
    memory, and runs `freeing`.
    """

    def __init__(self, time: str = TIME) -> None:
        body = _COMMENT.sub("", source(time))
        self.name = PREFIX + hashlib.sha256(body.encode("utf-8")).hexdigest()[:12]
        verbs = "".join(_REGISTER.replace("LIBRARY", self.name).replace("VERB", path.stem) for path in _verbs())
        self.text = f"#!lua name={self.name}\n{body}{verbs}".encode()
        self.growing = Script(body + _RUN)
        self.freeing = Script("#!lua flags=allow-oom\n" + body + _RUN)
        #: The name of each verb's function (FCALL).
        self.functions = {path.stem: f"{self.name}_{path.stem}".encode() for path in _verbs()}

    def script(self, verb: str) -> Script:
        """The script that runs a verb."""
        return self.growing if verb == "add" else self.freeing


def context(db: int, defaults: Mapping[str, object] | None = None) -> bytes:
    """The first argument of every call: the instance's database, and where its restmq.conf differs from DEFAULTS."""
    own = {name: value for name, value in (defaults or {}).items() if value != DEFAULTS[name]}
    return b"%d %b" % (db, json.dumps(own).encode()) if own else b"%d" % db
