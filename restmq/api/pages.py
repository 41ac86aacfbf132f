"""Pages for a person with a browser. None of them takes an element.

Owns what a person sees of queues. Of the store it calls only the verbs. api/frontend.py fills in the templates.
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
from restmq.http.handler import JSON, Answer, path_queue
from restmq.http.options import is_object
from restmq.http.request import BodyLimit
from restmq.model.errors import BadOption, BadRequest, Error, TooLarge
from restmq.model.urlencoded import unquote

SHOWN = 64 << 10  # most bytes of a command that a page shows again; an element that was handed out is shown whole
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
        """Answer the queues, each with a link that takes nothing."""
        after = next((value for name, value in self.request.query if name == b"after"), b"")
        found = await self.services.core.inspection.queues(after, b"", NAMED)
        names = [queue.decode("utf-8") for queue in found]
        queues = [(name, quote(name, safe="")) for name in names]
        following = queues[-1][1] if len(queues) == NAMED else ""
        page: Answer = self.services.frontend.page(self.request, "queues.html", queues=queues, following=following)
        return page


class Jobs(BrokerHandler):
    """/j/NAME for a person."""

    sections: ClassVar = {"GET": LOOK}

    async def get(self, raw: bytes) -> Answer:
        """Answer the newest ten elements, and leave them where they are."""
        queue = path_queue(raw)
        stats = await self.services.core.inspection.stats(queue)
        newest = [
            (e.key.decode("utf-8"), e.value.decode("utf-8")) for e in await self.services.core.inspection.newest(queue)
        ]
        shown = queue.decode("utf-8")
        path = quote(shown, safe="")
        return self.services.frontend.page(
            self.request, "jobs.html", queue=shown, path=path, stats=stats, newest=newest
        )


class Form(BrokerHandler):
    """/queue: the form, and the JSON protocol."""

    old = True
    body = "own"
    adds = False  # whether the command is an add, whose answer repeats what was sent

    def get(self) -> Answer:
        """Answer the page with the form."""
        return self._page(EXAMPLES[0][0].encode("ascii"), b"")

    def body_limit(self) -> BodyLimit:
        return BodyLimit(self.services.config.max_form, "a command", "three times max_value and 64 KiB")

    async def post(self) -> Answer:
        """Run one command.

        If the form field page=1 is set, as our own page sends it, the answer is shown on that page.
        """
        if not self.request.fields.form or (b"page", b"1") not in self.request.form:
            self.jsonp(b"")
            return self.jsonp(await self._run(self._command()), b"")
        shown = b""
        try:
            command = self._command()
            shown = _begins(command)
            # The page may be larger than the command, so the command is not kept longer than needed.
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
        """The body if it begins with { or is not a form; else the field `body` or `msg`.

        White space before the { is allowed if there is no such field. Raises BadRequest, TooLarge.
        """
        self.options({})
        text = self.request.body
        if len(text) > self.services.config.max_form:
            raise TooLarge(f"a command may have at most {self.services.config.max_form} bytes")
        if not is_object(text[:4]) and (self.request.fields.form or not text):
            found = self.field(b"body", b"msg")
            for name in (b"lease", b"wait", b"delay", b"at"):  # old clients do not send these
                if self.field(name) is not None:
                    raise BadOption(f"{name.decode()} is a field of the command, not of the form: put it into the JSON")
            if found is not None:
                text = found
            elif text.lstrip()[:1] != b"{":
                raise BadRequest(
                    "send a command as the form field `body`, or as the body itself, which then begins with {"
                )
        return text

    def _page(self, command: bytes, answer: bytes, status: int = 200, headers: Headers = ()) -> Answer:
        """The page with the command and its answer."""
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
    """The beginning of a text for a page. A page needs no more, and each quote in the text takes five bytes there."""
    return text if len(text) <= SHOWN else text[:SHOWN] + "…".encode()


class Static(BrokerHandler):
    """/static/FILE."""

    cache = b"no-cache"

    def get(self, raw: bytes) -> Answer:
        """Answer a file of the pages."""
        file: Answer = self.services.frontend.file(unquote(raw).decode("utf-8", "replace"))
        return file


class Description(BrokerHandler):
    """/openapi.json: docs/protocol.txt for programs (OpenAPI 3.1)."""

    cache = b"no-cache"

    def get(self) -> Answer:
        """Answer the description."""
        return Answer(self.services.frontend.description, 200, JSON)


class Robots(BrokerHandler):
    """/robots.txt: a crawler that follows links to queues would take their elements."""

    def get(self) -> Answer:
        """Forbid all paths to crawlers."""
        return Answer(b"User-agent: *\nDisallow: /\n")
