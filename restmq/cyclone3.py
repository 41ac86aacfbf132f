"""What cyclone 1.3 gets wrong on Python 3, mended once, each with its symptom.

Owns nothing but these repairs; everything else of cyclone is used as it is.
Read http.py next.
"""

from __future__ import annotations

import inspect
from typing import Any

from cyclone import web

from restmq.slot import deferred


class Chunked(web.ChunkedTransferEncoding):  # type: ignore[misc]
    """flush() on HTTP/1.1 joined str and bytes: a TypeError, and the request was never answered."""

    def transform_chunk(self, block: bytes, finishing: bool) -> bytes:
        if not self._chunking:
            return block
        framed = b"%x\r\n%b\r\n" % (len(block), block) if block else b""
        return framed + b"0\r\n\r\n" if finishing else framed


class PageHandler(web.RequestHandler):  # type: ignore[misc]
    """cyclone's own handler, for whoever extends RestMQ with pages of his own."""

    def _deferred_handler(self, function: Any, *args: Any, **kwargs: Any) -> Any:
        """An `async def` method was never awaited: an empty 200 at once."""
        answer = super()._deferred_handler(function, *args, **kwargs)
        return answer.addCallback(lambda got: deferred(got) if inspect.iscoroutine(got) else got)

    def compute_etag(self) -> None:
        """Every answer to a GET was hashed, and a queue's read could answer 304."""

    def _generate_headers(self) -> Any:
        """204 came with a Content-Length, and a reason could break the header apart."""
        if self._status_code == 204:
            self.clear_header("Content-Length")
            self.clear_header("Content-Type")
        self._reason = self._reason.replace("\r", " ").replace("\n", " ")
        return super()._generate_headers()
