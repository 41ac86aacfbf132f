"""Large texts of a JSON document, read and written in pieces of 64 KiB.

Owns how a text with few characters beyond ASCII stays small in memory. Python stores a text with one width for all its
characters: the widest one needs up to four bytes, and so does each other. Knows nothing of documents. Read
model/document.py next.
"""

from __future__ import annotations

import json
import re
from io import BytesIO
from json.decoder import scanstring  # type: ignore[attr-defined]  # it exists, but is not documented

from restmq.model.element import PIECE

_PAIR = 12  # characters of the longest escape: two surrogates
_HALF = 6  # characters of one of them
_HIGH = re.compile(rb"\\u[dD][89abAB]")
_BROKEN = re.compile(rb"\\u(?![0-9a-fA-F]{4})")


def narrow(text: bytes) -> str:
    """JSON of the same shape and length, with one byte a character. Its strings differ, and it is valid if `text` is.

    `text` must be UTF-8. Raises json.JSONDecodeError for an escape that is not valid.
    """
    if b"\\u" in text:
        text = text.replace(b"\\\\", b"\\/")  # now each \\u that is left is an escape
        broken = _BROKEN.search(text)
        if broken:
            raise json.JSONDecodeError("Invalid \\uXXXX escape", text.decode("latin-1"), broken.start())
        text = text.replace(b"\\u", b"\\n")
    return text.decode("latin-1")


def content(text: bytes, start: int, end: int) -> bytes:
    """The content of a JSON string, as UTF-8. The string stands between its quotes in text[start:end].

    Raises UnicodeEncodeError for a lone surrogate.
    """
    found = BytesIO()
    while start < end:
        cut = _before_escape(text, start, _before_character(text, start + PIECE)) if end - start > PIECE else end
        found.write(scanstring(text[start:cut].decode("utf-8") + '"', 0)[0].encode("utf-8"))
        start = cut
    return found.getvalue()


def quoted(value: bytes, into: BytesIO) -> None:
    """Write a value, which is UTF-8, as a JSON string.

    The string stays UTF-8, because escapes would make it three times as long.

    The two characters that end a line in old JavaScript are escaped, because an answer may be a script.
    """
    into.write(b'"')
    start = 0
    while start < len(value):
        cut = _before_character(value, start + PIECE)
        text = json.dumps(value[start:cut].decode("utf-8"), ensure_ascii=False)[1:-1]
        into.write(text.replace("\u2028", "\\u2028").replace("\u2029", "\\u2029").encode("utf-8"))
        start = cut
    into.write(b'"')


def _before_character(text: bytes, cut: int) -> int:
    """The last place up to `cut` that does not split a character of UTF-8."""
    while cut < len(text) and text[cut] & 0xC0 == 0x80:
        cut -= 1
    return min(cut, len(text))


def _before_escape(text: bytes, start: int, cut: int) -> int:
    """The last place up to `cut` that splits neither an escape nor a pair of surrogates."""
    slash = text.rfind(b"\\", cut - _PAIR, cut)
    if slash < 0 or not _begins_escape(text, start, slash):
        return cut
    before = slash - _HALF
    if not (_HIGH.match(text, max(start, before)) and _begins_escape(text, start, before)):
        return slash
    return cut if before + _PAIR <= cut else before


def _begins_escape(text: bytes, start: int, slash: int) -> bool:
    """Whether this backslash begins an escape. In a row of backslashes, every second one ends an escape."""
    run = text[start : slash + 1]
    return bool((len(run) - len(run.rstrip(b"\\"))) % 2)
