"""The frontend: the templates and static files of the pages.

Owns reading them, and the header lines that bound what a page may do. Knows no queue. Read api/pages.py next.
"""

from __future__ import annotations

import mimetypes
from pathlib import Path

from jinja2 import Environment, FileSystemLoader

from restmq.http.handler import Answer
from restmq.http.request import Request
from restmq.model.errors import NotFound
from restmq.runtime import plainfile

Headers = tuple[tuple[bytes, bytes], ...]
HTML = b"text/html; charset=utf-8"
LARGEST = 64 << 20  # most bytes of a static file
POLICY = (
    (b"Content-Security-Policy", b"default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"),
    # With no-referrer, a browser would send `Origin: null` with our own page's form, and RestMQ would refuse it.
    (b"Referrer-Policy", b"same-origin"),
)


class Frontend:
    """The templates and static files, read from the frontend folder."""

    def __init__(self, frontend: Path, static: Path | None = None, template: Path | None = None) -> None:
        self.static = (static or frontend / "static").resolve()
        self.description = (frontend / "openapi.json").read_bytes()
        loader = FileSystemLoader(str(template or frontend / "template"))
        self.templates = Environment(loader=loader, autoescape=True)

    def page(
        self, request: Request, template: str, status: int = 200, headers: Headers = (), **words: object
    ) -> Answer:
        """Fill in a template. The page's links begin at `root`, which is the first page as seen from the requested one.

        So the links also work behind a proxy that serves all pages below a path of its own, which RestMQ does not
        know.
        """
        root = "../" * (request.raw_path.count(b"/") - 1) or "./"
        here = f"{request.protocol}://{request.host}/"  # static/here.js corrects it behind a proxy
        text = self.templates.get_template(template).render(root=root, here=here, **words)
        return Answer(text.encode("utf-8"), status, HTML, (*headers, *POLICY))

    def file(self, path: str) -> Answer:
        """A static file, if it lies in the static folder. Raises NotFound."""
        try:
            wanted = (self.static / path).resolve()
            data = plainfile.read(wanted, LARGEST) if self.static in wanted.parents else None
        except (OSError, RuntimeError, ValueError):  # a folder, a name that is too long, a loop of links, a NUL
            data = None
        if data is None:
            raise NotFound("there is no such file")
        kind = mimetypes.guess_type(wanted.name)[0] or "application/octet-stream"
        if kind.startswith("text/") or kind.endswith("javascript"):
            kind += "; charset=utf-8"
        return Answer(data, 200, kind.encode("ascii"), POLICY)
