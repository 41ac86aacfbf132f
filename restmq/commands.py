"""The JSON protocol: commands as one object in, one object out.

Owns the table of commands and their fields; the same on POST /queue and on a
WebSocket. What is wrong in a command is answered as {"error"} and does nothing.
Read live.py next.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable
from json.decoder import scanstring
from typing import Any

from restmq import options
from restmq.element import Element, parse_key, queue_name
from restmq.errors import BadRequest, Error
from restmq.rest import checked

Said = dict[str, Any]


class Wrong(Exception):
    """The command is not one: the client is told, and nothing happens."""


class Command(dict[str, Any]):
    """A command's fields, and the text that it came in."""

    text = ""

    def written(self, word: str) -> str:
        """A field as it stands in the text, byte for byte: 1.10 is not 1.1, and no key is lost."""
        text, decoder, found = self.text, json.JSONDecoder(), ""
        at = _space(text, text.index("{") + 1)
        while text[at] != "}":
            field, at = scanstring(text, at + 1)
            start = _space(text, _space(text, at) + 1)
            try:
                _, at = decoder.raw_decode(text, start)
            except RecursionError:
                raise Wrong(f"the field {field!a} is nested too deep") from None
            if field == word:
                found = text[start:at]
            at = _space(text, at)
            if text[at] == ",":
                at = _space(text, at + 1)
        return found


_SPACES = re.compile(r"[ \t\r\n]*")


def _space(text: str, at: int) -> int:
    """The position after the white space (RFC 8259 section 2)."""
    found = _SPACES.match(text, at)
    return found.end() if found else at


def _constant(word: str) -> None:
    raise ValueError(f"{word} is Python's and JavaScript's, not JSON's")


def parse(text: bytes | str) -> Command:
    """A command out of its text (RFC 8259). Raises BadRequest for what is no JSON object."""
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8")
        found = json.loads(text, parse_constant=_constant)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"this is no JSON: {error}") from None
    if not isinstance(found, dict):
        raise BadRequest('a command is a JSON object: {"cmd": "add", "queue": "test", "value": "oi"}')
    command = Command(found)
    command.text = text
    return command


def _field(command: Command, word: str) -> Any:
    if word not in command:
        raise Wrong(f"the field {word!r} is missing")
    return command[word]


def _queue(command: Command) -> bytes:
    given = _field(command, "queue")
    if not isinstance(given, str):
        raise Wrong("the field 'queue' must be a string")
    return queue_name(_bytes("queue", given))


def _bytes(word: str, text: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:
        raise Wrong(f"the field {word!r} has a lone surrogate in it, which is no text") from None


def _element(element: Element, *, counted: bool) -> Said:
    said: Said = {"queue": element.queue.decode("utf-8"), "value": element.value.decode("utf-8")}
    if counted:
        said["count"] = element.count
    said["key"] = element.key.decode("utf-8")
    return said


async def add(app: Any, command: Command) -> Said:
    """Store a value."""
    queue, value = _queue(command), _field(command, "value")
    text = value if isinstance(value, str) else command.written("value")
    ttl = command.get("ttl", "")
    if isinstance(ttl, bool) or not isinstance(ttl, (str, int, float)):
        raise Wrong("the field 'ttl' must be a number of seconds or a text such as \"5m\"")
    ttl_ms = options.ttl(str(ttl)) if ttl != "" else 0
    stored = checked(_bytes("value", text), app.config.max_value)
    number = (await app.core.add_all(queue, [stored], ttl_ms)).first if ttl_ms else await app.core.add(queue, stored)
    name = queue.decode("utf-8")
    return {"queue": name, "value": text, "key": f"{name}:{number}"}


async def get(app: Any, command: Command) -> Said:
    """Show the next element, and count that it was shown."""
    found = await app.core.get(_queue(command))
    if isinstance(found, Element):
        return _element(found, counted=True)
    return {"error": "empty queue" if found else "Null resultset"}


async def take(app: Any, command: Command) -> Said:
    """Remove the next element."""
    found = await app.core.take(_queue(command))
    return _element(found, counted=False) if found else {"error": "empty queue"}


async def delete(app: Any, command: Command) -> Said:
    """Delete one element by its key."""
    queue, key = _queue(command), _field(command, "key")
    if not isinstance(key, str):
        raise Wrong("the field 'key' must be a string")
    gone = await app.core.delete(queue, parse_key(_bytes("key", key), queue))
    return {"queue": queue.decode("utf-8"), "deleted": gone, "key": key}


#: verb -> what it does, the ACL section it needs, the fields it knows beside cmd, queue and id
COMMANDS: dict[str, tuple[Callable[[Any, Command], Any], str, tuple[str, ...]]] = {
    "add": (add, "rest:producer", ("value", "ttl")),
    "get": (get, "rest:consumer", ()),
    "take": (take, "rest:consumer", ()),
    "del": (delete, "rest:consumer", ("key",)),
}


def _near(word: str, known: list[str]) -> str:
    found = difflib.get_close_matches(word, known, 1, 0.5)
    return f"did you mean {found[0]!r}?" if found else "known: " + ", ".join(known)


def _id(command: Command) -> str:
    """The command's `id` as the answer's last field, "" without one. Raises Wrong before anything is done."""
    if "id" not in command:
        return ""
    try:
        return ', "id": ' + json.dumps(command["id"], allow_nan=False)
    except (ValueError, RecursionError):
        raise Wrong("the field 'id' cannot be sent back: a number is too large, or it is nested too deep") from None


async def _run(app: Any, command: Command, allow: Callable[[str], object]) -> Said:
    word = _field(command, "cmd")
    if not isinstance(word, str) or word not in COMMANDS:
        raise Wrong(f"unknown command {str(word)[:40]!a}; {_near(str(word), list(COMMANDS))}")
    do, section, fields = COMMANDS[word]
    known = ["cmd", "queue", "id", *fields]
    for field in command:
        if field not in known:
            raise Wrong(f"unknown field {field[:40]!a} in {word}; {_near(field, known)}")
    allow(section)
    said: Said = await do(app, command)
    return said


async def run(app: Any, text: bytes | str, allow: Callable[[str], object], whole: bool = False) -> bytes:
    """Run one command; answers JSON, with the command's `id` as its last field.

    `allow(section)` raises when the command's ACL section is not open to this client.
    Raises BadRequest for what is no JSON object, and the errors that have a status of
    their own: access, size, full, stopped, unavailable. With `whole`, for a client
    that sees no status, these are answers too: the problem (RFC 9457) and the id.
    """
    echo = ""
    try:
        command = parse(text)
        try:
            echo = _id(command)
            said = await _run(app, command, allow)
        except Wrong as wrong:
            said = {"error": str(wrong)}
        except BadRequest as wrong:
            said = {"error": wrong.text}
    except Error as problem:
        if not whole:
            raise
        said = problem.problem()
    return (json.dumps(said)[:-1] + echo + "}").encode("ascii")
