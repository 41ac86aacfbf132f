"""The JSON protocol: a command is one object, and so is its answer.

Owns the table of commands and their fields, which are the same on POST /queue and on a WebSocket. An error in a
command is answered as {"error"}, and nothing is done. Read live/consumer.py next.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from io import BytesIO
from typing import Union

from restmq.api import pull
from restmq.api.ack import switch
from restmq.api.client import Client
from restmq.api.element import TouchOptions, lease_of, touched
from restmq.api.element import touch as touch_lease
from restmq.api.services import Services
from restmq.api.values import checked
from restmq.model import document, options, wide
from restmq.model.document import Document as Command
from restmq.model.element import PIECE, Element, Lease, parse_key, queue_name
from restmq.model.errors import BadRequest, Conflict, Error, LeaseLost, NotFound
from restmq.model.suggest import hint

Value = Union[document.Json, document.Entries]
#: An answer before it is written. The value of an element may be bytes; see _shown().
Said = dict[str, object]
#: Errors in a command, or in what it names. Their answer is only {"error"}.
WRONG = (BadRequest, LeaseLost, Conflict, NotFound)


class Wrong(Exception):
    """The command is malformed: the client gets an error, and nothing is done."""


WANTED = 'send a command as a JSON object: {"cmd": "add", "queue": "test", "value": "oi"}'


def parse(text: bytes) -> Command:
    """Read a command from its text. The value of `value` is passed on as it stands. Raises BadRequest."""
    return document.read(text, WANTED, "value")


def _field(command: Command, name: str) -> Value:
    if name not in command:
        raise Wrong(f"the field {name!r} is missing")
    return command[name]


def _opaque(command: Command) -> bytes:
    _field(command, "value")
    return command.opaque


def _queue(command: Command) -> bytes:
    given = _field(command, "queue")
    if not isinstance(given, str):
        raise Wrong("the field 'queue' must be a string")
    return queue_name(_bytes("queue", given))


def _bytes(name: str, text: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:
        raise Wrong(f"the field {name!r} has a lone surrogate in it, which is not text") from None


def _element(element: Element, *, counted: bool) -> Said:
    said: Said = {"queue": element.queue.decode("utf-8"), "value": _shown(element.value)}
    if counted:
        said["count"] = element.count
    said["key"] = element.key.decode("utf-8")
    return said


def _string(command: Command, name: str) -> bytes:
    given = _field(command, name)
    if not isinstance(given, str):
        raise Wrong(f"the field {name!r} must be a string")
    return _bytes(name, given)


def _time(command: Command, name: str, parse: Callable[[str], int]) -> int:
    """A field that is a time, in ms. 0 if it is absent, or is an empty ttl. Raises BadOption."""
    if name not in command or (name == "ttl" and command[name] == ""):
        return 0
    return options.of_json(name, command[name], parse)


async def add(services: Services, command: Command, client: Client) -> Said:
    """Store a value."""
    queue, value = _queue(command), _opaque(command)
    ttl_ms, delay_ms = _time(command, "ttl", options.ttl), _time(command, "delay", options.delay)
    until_ms = _time(command, "at", options.at)
    options.check_delay_or_at(command)
    stored, key = checked(value, services.config.max_value), b""
    if "idempotency_key" in command:
        key = options.idempotency_key("idempotency_key", _string(command, "idempotency_key").decode("utf-8"))
    name = queue.decode("utf-8")
    if not (ttl_ms or delay_ms or until_ms or key):
        return {"queue": name, "value": _shown(value), "key": f"{name}:{await services.core.add(queue, stored)}"}
    window = round(services.config.idempotency * 1000)
    added = await services.core.add_all(queue, [stored], ttl_ms, delay_ms, key, window, until_ms=until_ms)
    said: Said = {"queue": name, "value": _shown(value), "key": f"{name}:{added.first}"}
    return {**said, "replayed": True} if added.replayed else said


async def get(services: Services, command: Command, client: Client) -> Said:
    """Show the next element, and count that it was shown."""
    found = await services.core.get(_queue(command))
    if isinstance(found, Element):
        return _element(found, counted=True)
    return {"error": "empty queue" if found else "Null resultset"}


async def take(services: Services, command: Command, client: Client) -> Said:
    """Remove or lease the next element."""
    queue = _queue(command)
    client.check_usable()
    asked = {"wait": _time(command, "wait", options.wait)}
    leased = "lease" in command
    if leased:
        asked["lease"] = _time(command, "lease", options.lease)
    found = await pull.elements(services, client, queue, asked)
    if not found:
        return {"error": "empty queue"}
    element = found[0]
    said = _element(element, counted=False)
    if leased:
        said.update(deliveries=element.deliveries, lease=bytes(element.lease).decode("ascii"))
    return said


def _named(command: Command) -> tuple[bytes, int, Lease | None]:
    """The element that a command names by its key, and the lease in `match`, if there is one."""
    queue = _queue(command)
    number = parse_key(_string(command, "key"), queue)
    return queue, number, lease_of(_string(command, "match"), number) if "match" in command else None


async def delete(services: Services, command: Command, client: Client) -> Said:
    """Delete one element by its key. With a lease, acknowledge it."""
    queue, number, lease = _named(command)
    if lease is None and client.must_match:
        raise Wrong("the field 'match' is missing: the elements of this connection are leased, so send the lease")
    gone = await services.core.delete(queue, number, lease)
    return {"queue": queue.decode("utf-8"), "deleted": gone, "key": command["key"]}


async def touch(services: Services, command: Command, client: Client) -> Said:
    """Prolong a lease, or give it back."""
    queue, number, lease = _named(command)
    asked: TouchOptions = {}
    if "dead" in command:
        asked["dead"] = switch("dead", command["dead"])
    if "lease" in command or not asked.get("dead"):
        asked["lease"] = options.of_json("lease", _field(command, "lease"), options.release)
    client.check_usable()
    if "delay" in command:
        asked["delay"] = _time(command, "delay", options.delay)
    if "at" in command:
        asked["at"] = _time(command, "at", options.at)
    if "error" in command:
        asked["error"] = _string(command, "error").decode("utf-8")
    return touched(queue, number, await touch_lease(services.core, queue, number, lease, asked))


Verb = Callable[[Services, Command, Client], Coroutine[object, object, Said]]
#: verb -> its function, its access section, and its fields beside cmd, queue and id
COMMANDS: dict[str, tuple[Verb, str, tuple[str, ...]]] = {
    "add": (add, "rest:producer", ("value", "ttl", "delay", "at", "idempotency_key")),
    "get": (get, "rest:consumer", ()),
    "take": (take, "rest:consumer", ("lease", "wait")),
    "del": (delete, "rest:consumer", ("key", "match")),
    "touch": (touch, "rest:consumer", ("key", "match", "lease", "delay", "at", "error", "dead")),
}


def _id(command: Command) -> str:
    """The command's `id` as the answer's last field, or "" without one. Raises Wrong before anything is done."""
    if "id" not in command:
        return ""
    try:
        return ', "id": ' + json.dumps(command["id"], allow_nan=False)
    except (ValueError, RecursionError):
        raise Wrong(
            "the field 'id' cannot be sent back: it has a number that is too large, or is nested too deep"
        ) from None


def _own(command: Command, client: Client) -> bool:
    """Whether the command is about a lease that this client got over its own connection."""
    queue, lease = command.get("queue"), command.get("match")
    return isinstance(queue, str) and isinstance(lease, str) and client.owns(queue, lease)


async def _run(
    services: Services, command: Command, allow: Callable[[str], object], ordered: bool, client: Client
) -> Said:
    verb = _field(command, "cmd")
    if not isinstance(verb, str) or verb not in COMMANDS:
        raise Wrong(f"unknown command {str(verb)[:40]!a}; {hint(str(verb), COMMANDS)}")
    do, section, fields = COMMANDS[verb]
    known = ["cmd", "queue", "id", *fields]
    for field in command:
        if field not in known:
            raise Wrong(f"unknown field {field[:40]!a} in {verb}; {hint(field, known)}")
    if not _own(command, client):
        allow(section)
    if ordered and command.get("wait", 0) != 0 and "id" not in command:
        raise Wrong("a take that waits needs an 'id', because the answers to later commands may come before its own")
    client.check_unkeyed(verb)
    return await do(services, command, client)


async def run(
    services: Services, text: bytes, allow: Callable[[str], object], whole: bool = False, client: Client | None = None
) -> bytes:
    """Run one command. Returns JSON, with the command's `id` as its last field.

    `allow(section)` raises if the command's access section is not open to this client. run() raises BadRequest for
    text that is not a JSON object, and the errors that have a status of their own: access, size, full, stopped,
    unavailable. With `whole`, for a client that sees no status, these are answers too: the problem (RFC 9457) and the
    id.

    With `whole`, a take that waits needs an `id`. client.waits(wait) is called before run() first awaits. So a
    connection that answers in order sees at once that this answer comes later, and can go on with the next command.
    The answer is run()'s result as ever, and `{"error": "empty queue"}` when the time is over.
    """
    echo = ""
    try:
        try:
            command = parse(text)
        except document.Unclear as unclear:
            return json.dumps({"error": unclear.text}).encode("ascii")
        try:
            echo = _id(command)
            said = await _run(services, command, allow, whole, client or Client())
        except Wrong as wrong:
            said = {"error": str(wrong)}
        except WRONG as wrong:
            said = {"error": wrong.text}
    except Error as problem:
        if not whole:
            problem.echo = echo
            raise
        said = problem.problem()
    return _written(said, echo)


def _shown(value: bytes) -> str | bytes:
    """A value for an answer. A large one stays bytes, because as text it could take four times the memory."""
    return value if len(value) > PIECE else value.decode("utf-8")


def _written(said: Said, echo: str) -> bytes:
    """An answer as JSON, with the command's id at its end."""
    value = said.get("value")
    if not isinstance(value, bytes):
        return (json.dumps(said)[:-1] + echo + "}").encode("ascii")
    before, _, after = json.dumps({**said, "value": None}).partition('"value": null')
    into = BytesIO()
    into.write(before.encode("ascii") + b'"value": ')
    wide.quoted(value, into)
    into.write((after[:-1] + echo + "}").encode("ascii"))
    return into.getvalue()
