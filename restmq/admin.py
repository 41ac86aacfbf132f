"""Looking and administering: policy, control, stats, pages, health.

Owns what people and monitors ask; knows of the core only its verbs. Pages are
Jinja2 templates of frontend/template. Read web.py next.
"""

from __future__ import annotations

import mimetypes
import re
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote, unquote_to_bytes

from jinja2 import Environment, FileSystemLoader
from twisted.internet.defer import DeferredList

from restmq import commands
from restmq.errors import BadOption, BadRequest, Error, NotFound, TooLarge
from restmq.handler import REFUSALS, Answer, Handler, name
from restmq.slot import deferred

Headers = tuple[tuple[bytes, bytes], ...]
HTML = b"text/html; charset=utf-8"
POLICY = (
    (b"Content-Security-Policy", b"default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"),
    # Not no-referrer: a browser then sends `Origin: null` with a page's own form, which is nobody's page.
    (b"Referrer-Policy", b"same-origin"),
)
EXAMPLES = (
    ('{"cmd": "add", "queue": "test", "value": "oi"}', "stores an element"),
    ('{"cmd": "get", "queue": "test"}', "shows the next one, leaves it there, and counts how often it was shown"),
    ('{"cmd": "take", "queue": "test"}', "removes the next one"),
    ('{"cmd": "del", "queue": "test", "key": "test:1"}', "deletes one by its key"),
)
NAMED = 1000
_NAMED = re.compile(r"0*([1-9][0-9]{0,2}|1000)\Z", re.ASCII)
LOOK, CHANGE = "rest:consumer", "admin"
DONE = {b"start": "started", b"stop": "stopped"}


class Pages:
    """Templates and static files, read from the frontend folder."""

    def __init__(self, frontend: Path, static: Path | None = None, template: Path | None = None) -> None:
        self.static = (static or frontend / "static").resolve()
        loader = FileSystemLoader(str(template or frontend / "template"))
        self.templates = Environment(loader=loader, autoescape=True)

    def page(self, template: str, status: int = 200, headers: Headers = (), **words: object) -> Answer:
        """A template filled in."""
        text = self.templates.get_template(template).render(**words)
        return Answer(text.encode("utf-8"), status, HTML, (*headers, *POLICY))

    def file(self, path: str) -> Answer:
        """A static file, if it lies in the static folder. Raises NotFound."""
        try:
            wanted = (self.static / path).resolve()
            data = wanted.read_bytes() if self.static in wanted.parents else None
        except (OSError, RuntimeError, ValueError):  # a folder, a name too long, a loop of links, a NUL
            data = None
        if data is None:
            raise NotFound("there is no such file")
        kind = mimetypes.guess_type(wanted.name)[0] or "application/octet-stream"
        if kind.startswith("text/") or kind.endswith("javascript"):
            kind += "; charset=utf-8"
        return Answer(data, 200, kind.encode("ascii"), ((b"Cache-Control", b"no-cache"), *POLICY))


class Policy(Handler):
    """/p/NAME."""

    sections: ClassVar = {"GET": LOOK, "POST": CHANGE}

    async def get(self, raw: bytes) -> Answer:
        """The policy of a queue."""
        queue = name(raw)
        self.options({})
        return self.json({"queue": queue.decode("utf-8"), "value": await self.app.core.policy(queue)})

    async def post(self, raw: bytes) -> bytes:
        """Set it."""
        queue = name(raw)
        self.options({})
        policy = self.field(b"policy")
        if policy not in (b"broadcast", b"roundrobin"):
            raise BadOption("policy is broadcast or roundrobin; send it as a form field: -d policy=roundrobin")
        await self.app.core.set_policy(queue, policy.decode())
        self.did("set the policy of {queue} to {policy}", queue=queue.decode("utf-8"), policy=policy.decode())
        return b"OK\r\n"

    verbs: ClassVar[dict[str, Any]] = {"GET": get, "POST": post}


class Control(Handler):
    """/control/NAME."""

    sections: ClassVar = {"GET": LOOK, "POST": CHANGE}

    async def get(self, raw: bytes) -> Answer:
        """Whether elements flow to live consumers."""
        queue = name(raw)
        self.options({})
        word = queue.decode("utf-8")
        status = {"queue": word, "status": await self.app.core.status(queue)}
        return self.json({"queue": word, "status": status, "redis": self.app.core.redis_name})

    async def post(self, raw: bytes) -> Answer:
        """Stop or start the flow."""
        queue = name(raw)
        self.options({})
        status = self.field(b"status")
        if status not in (b"start", b"stop"):
            raise BadOption("status is start or stop; send it as a form field: -d status=stop")
        self.jsonp(b"")  # a bad callback must not change anything
        await self.app.core.set_status(queue, status == b"start")
        self.did("{done} the flow of {queue}", done=DONE[status], queue=queue.decode("utf-8"))
        return self.json({"stat": {"queue": queue.decode("utf-8"), "status": int(status == b"start")}})

    verbs: ClassVar[dict[str, Any]] = {"GET": get, "POST": post}


def _most(text: str) -> int:
    found = _NAMED.match(text)
    if not found:
        raise BadOption(f"max is a number from 1 to {NAMED}")
    return int(found[1])


async def _named(handler: Handler) -> list[bytes]:
    """The queues a listing asks for: after=, match=, max=."""
    asked = handler.options({"after": str, "match": str, "max": _most})
    found: list[bytes] = await handler.app.core.queues(
        asked.get("after", "").encode("utf-8"), asked.get("match", "").encode("utf-8"), asked.get("max", NAMED)
    )
    return found


async def _together(asked: list[Coroutine[Any, Any, Any]]) -> list[Any]:
    """The answers to many questions, asked in one turn and so in one write; raises the first error."""
    # Every error is consumed here: the others of a Redis that went away must not fill the log.
    answers = await DeferredList([deferred(one) for one in asked], consumeErrors=True)
    for good, answer in answers:
        if not good:
            raise answer.value
    return [answer for _, answer in answers]


class Controls(Handler):
    """/control/."""

    sections: ClassVar = {"GET": LOOK}

    async def get(self) -> Answer:
        """The flow of all queues."""
        names = await _named(self)
        statuses = await _together([self.app.core.status(queue) for queue in names])
        words = [queue.decode("utf-8") for queue in names]
        queues = {word: {"queue": word, "status": status} for word, status in zip(words, statuses)}
        return self.json({"count": len(queues), "queues": queues, "redis": self.app.core.redis_name})

    verbs: ClassVar[dict[str, Any]] = {"GET": get}


class Stats(Handler):
    """/stats/NAME."""

    sections: ClassVar = {"GET": LOOK}

    async def get(self, raw: bytes) -> Answer:
        """The numbers of one queue."""
        queue = name(raw)
        self.options({})
        stats = await self.app.core.stats(queue)
        first = {"queue": queue.decode("utf-8"), "redis": self.app.core.redis_name, "len": stats.pop("len")}
        return self.json({**first, **stats}, b"")

    verbs: ClassVar[dict[str, Any]] = {"GET": get}


class AllStats(Handler):
    """/stats/."""

    sections: ClassVar = {"GET": LOOK}

    async def get(self) -> Answer:
        """The numbers of all queues."""
        stats = await _together([self.app.core.stats(queue) for queue in await _named(self)])
        queues = {one["name"]: one for one in stats}
        return self.json({"count": len(queues), "queues": queues, "redis": self.app.core.redis_name}, b"")

    verbs: ClassVar[dict[str, Any]] = {"GET": get}


class Listing(Handler):
    """/q/ for a person."""

    sections: ClassVar = {"GET": LOOK}

    async def get(self) -> Answer:
        """The queues, each with a link that consumes nothing."""
        after = next((value for word, value in self.request.query if word == b"after"), b"")
        found = await self.app.core.queues(after, b"", NAMED)
        names = [queue.decode("utf-8") for queue in found]
        queues = [(word, quote(word, safe="")) for word in names]
        following = queues[-1][1] if len(queues) == NAMED else ""
        return self.app.pages.page("queues.html", queues=queues, following=following)

    verbs: ClassVar[dict[str, Any]] = {"GET": get}


class Jobs(Handler):
    """/j/NAME for a person."""

    sections: ClassVar = {"GET": LOOK}

    async def get(self, raw: bytes) -> Answer:
        """The newest ten elements, untouched."""
        queue = name(raw)
        stats = await self.app.core.stats(queue)
        newest = [(e.key.decode("utf-8"), e.value.decode("utf-8")) for e in await self.app.core.newest(queue)]
        return self.app.pages.page("jobs.html", queue=queue.decode("utf-8"), stats=stats, newest=newest)

    verbs: ClassVar[dict[str, Any]] = {"GET": get}


class Form(Handler):
    """/queue: the form, and the JSON protocol."""

    def get(self) -> Answer:
        """The page with the form."""
        return self._page(EXAMPLES[0][0].encode("ascii"), b"")

    async def post(self) -> Answer:
        """Run one command; with the form field page=1, as our own page sends it, the answer stands on that page."""
        if not self.request.fields.form or (b"page", b"1") not in self.request.form:
            self.jsonp(b"")
            return self.jsonp(await commands.run(self.app, self._command(), self.allow), b"")
        command = b""
        try:
            command = self._command()
            return self._page(command, await commands.run(self.app, command, self.allow))
        except Error as error:
            if isinstance(error, REFUSALS):
                self.app.refusals.note(self.request, error)
            return self._page(command, error.render(), error.status, error.headers)

    def _command(self) -> bytes:
        """The body if it begins with { or is no form, else the field `body` or `msg`. Raises BadRequest, TooLarge."""
        self.options({})
        text = self.request.body
        if len(text) > self.app.config.max_form:
            raise TooLarge(f"a command has {self.app.config.max_form} bytes at the most")
        if text[:1] != b"{" and (self.request.fields.form or not text):
            found = self.field(b"body", b"msg")
            if found is None:
                raise BadRequest("send a command as the form field `body`, or as the body itself")
            text = found
        return text

    def _page(self, command: bytes, answer: bytes, status: int = 200, headers: Headers = ()) -> Answer:
        """The page with what was sent and what came of it."""
        return self.app.pages.page(
            "queue.html",
            status,
            headers,
            command=command.decode("utf-8", "replace"),
            answer=answer.decode("ascii"),
            error=answer.startswith(b'{"error"'),
            examples=EXAMPLES,
        )

    verbs: ClassVar[dict[str, Any]] = {"GET": get, "POST": post}


class Static(Handler):
    """/static/FILE."""

    def get(self, raw: bytes) -> Answer:
        """A file of the pages."""
        return self.app.pages.file(unquote_to_bytes(raw).decode("utf-8", "replace"))

    verbs: ClassVar[dict[str, Any]] = {"GET": get}


class Robots(Handler):
    """/robots.txt: a crawler that follows links to queues would eat them."""

    def get(self) -> Answer:
        """Nothing is for robots."""
        return Answer(b"User-agent: *\nDisallow: /\n")

    verbs: ClassVar[dict[str, Any]] = {"GET": get}


class Health(Handler):
    """/healthz: the process answers."""

    def get(self) -> bytes:
        """It does."""
        return b"OK\r\n"

    verbs: ClassVar[dict[str, Any]] = {"GET": get}


class Ready(Handler):
    """/readyz: Redis answers too."""

    async def get(self) -> Answer:
        """200 when it does, with what is not well; 503 when it does not."""
        return Answer(b"".join(b"%b\r\n" % r.encode() for r in ["OK", *await self.app.core.ready()]))

    verbs: ClassVar[dict[str, Any]] = {"GET": get}
