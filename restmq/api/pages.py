"""Pages for a person with a browser; none of them takes an element.

Owns what a person sees of queues; knows of the core only its verbs. The templates are api/frontend.py's to fill in.
Programs look through api/stats.py.
"""

from __future__ import annotations

from typing import ClassVar
from urllib.parse import quote

from restmq.api import commands
from restmq.api.client import Client
from restmq.api.frontend import Headers
from restmq.api.services import BrokerHandler
from restmq.api.stats import LOOK, NAMED
from restmq.http.handler import JSON, Answer, is_object, name
from restmq.http.request import Most
from restmq.model.errors import BadOption, BadRequest, Error, TooLarge
from restmq.model.urlencoded import unquote

SHOWN = 64 << 10  # bytes of what was sent that a page shows again; what was handed out stands there whole
EXAMPLES = (
    ('{"cmd": "add", "queue": "test", "value": "oi"}', "stores an element"),
    ('{"cmd": "get", "queue": "test"}', "shows the next one, leaves it there, and counts how often it was shown"),
    ('{"cmd": "take", "queue": "test"}', "removes the next one"),
    ('{"cmd": "del", "queue": "test", "key": "test:1"}', "deletes one by its key"),
)


class Listing(BrokerHandler):
    """/q/ for a person."""

    sections: ClassVar = {"GET": LOOK}

    async def get(self) -> Answer:
        """The queues, each with a link that consumes nothing."""
        after = next((value for word, value in self.request.query if word == b"after"), b"")
        found = await self.services.core.inspection.queues(after, b"", NAMED)
        names = [queue.decode("utf-8") for queue in found]
        queues = [(word, quote(word, safe="")) for word in names]
        following = queues[-1][1] if len(queues) == NAMED else ""
        page: Answer = self.services.frontend.page(self.request, "queues.html", queues=queues, following=following)
        return page


class Jobs(BrokerHandler):
    """/j/NAME for a person."""

    sections: ClassVar = {"GET": LOOK}

    async def get(self, raw: bytes) -> Answer:
        """The newest ten elements, untouched."""
        queue = name(raw)
        stats = await self.services.core.inspection.stats(queue)
        newest = [
            (e.key.decode("utf-8"), e.value.decode("utf-8")) for e in await self.services.core.inspection.newest(queue)
        ]
        word = queue.decode("utf-8")
        path = quote(word, safe="")
        return self.services.frontend.page(self.request, "jobs.html", queue=word, path=path, stats=stats, newest=newest)


class Form(BrokerHandler):
    """/queue: the form, and the JSON protocol."""

    old = True
    body = "own"
    adds = False  # whether its command is an add, whose answer repeats what was sent

    def get(self) -> Answer:
        """The page with the form."""
        return self._page(EXAMPLES[0][0].encode("ascii"), b"")

    def most(self) -> Most:
        return Most(self.services.config.max_form, "a command", "three times max_value and 64 KiB")

    async def post(self) -> Answer:
        """Run one command; with the form field page=1, as our own page sends it, the answer stands on that page."""
        if not self.request.fields.form or (b"page", b"1") not in self.request.form:
            self.jsonp(b"")
            return self.jsonp(await self._run(self._command()), b"")
        shown = b""
        try:
            command = self._command()
            shown = _begins(command)
            # The page may be larger than the command, of which no more is held than is needed.
            self.request.body = b""
            del self.request.form
            answer = await self._run(command)
            del command
            return self._page(shown, _begins(answer) if self.adds else answer)
        except Error as error:
            self.server.refusals.note(self.request, error)
            return self._page(shown, error.render(), error.status, error.headers)

    def _allow(self, section: str) -> None:
        self.adds = section == "rest:producer"
        self.allow(section)

    async def _run(self, command: bytes) -> bytes:
        return await commands.run(self.services, command, self._allow, client=Client(self))

    def _command(self) -> bytes:
        """The body if it begins with { or is no form, else the field `body` or `msg`.

        White space before the { is let pass where there is no such field. Raises BadRequest, TooLarge.
        """
        self.options({})
        text = self.request.body
        if len(text) > self.services.config.max_form:
            raise TooLarge(f"a command has {self.services.config.max_form} bytes at the most")
        if not is_object(text[:4]) and (self.request.fields.form or not text):
            found = self.field(b"body", b"msg")
            for word in (b"lease", b"wait", b"delay", b"at"):  # no old client knows these
                if self.field(word) is not None:
                    raise BadOption(f"{word.decode()} is a field of the command, not of the form: put it into the JSON")
            if found is not None:
                text = found
            elif text.lstrip()[:1] != b"{":
                raise BadRequest(
                    "send a command as the form field `body`, or as the body itself, which then begins with {"
                )
        return text

    def _page(self, command: bytes, answer: bytes, status: int = 200, headers: Headers = ()) -> Answer:
        """The page with what was sent and what came of it."""
        page: Answer = self.services.frontend.page(
            self.request,
            "queue.html",
            status,
            headers,
            command=command.decode("utf-8", "replace"),
            answer=answer.decode("utf-8"),
            error=answer.startswith(b'{"error"'),
            examples=EXAMPLES,
        )
        return page


def _begins(text: bytes) -> bytes:
    """What a page shows of what was sent: nobody reads more, and each quote in it is five bytes on a page."""
    return text if len(text) <= SHOWN else text[:SHOWN] + "…".encode()


class Static(BrokerHandler):
    """/static/FILE."""

    cache = b"no-cache"

    def get(self, raw: bytes) -> Answer:
        """A file of the pages."""
        file: Answer = self.services.frontend.file(unquote(raw).decode("utf-8", "replace"))
        return file


class Description(BrokerHandler):
    """/openapi.json: docs/protocol.txt for programs (OpenAPI 3.1)."""

    cache = b"no-cache"

    def get(self) -> Answer:
        """The description."""
        return Answer(self.services.frontend.description, 200, JSON)


class Robots(BrokerHandler):
    """/robots.txt: a crawler that follows links to queues would eat them."""

    def get(self) -> Answer:
        """Nothing is for robots."""
        return Answer(b"User-agent: *\nDisallow: /\n")
