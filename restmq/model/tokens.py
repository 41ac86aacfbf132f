"""The number of tokens in a JSON text, counted before it is parsed, because a small text may take much memory.

Owns the only bound on it. An empty list is two bytes of text and sixty bytes of memory, so a MiB of empty lists would
take forty MiB. Knows nothing of what a document means.
"""

from __future__ import annotations

from restmq.model.element import PIECE
from restmq.model.errors import BadRequest, TooLarge

MOST = 50_000  # most strings, commas and opening brackets in one document
FEW = 2000  # the same for options and settings
DEEP = 1000  # levels that no reader follows


def bounded(text: bytes, most: int = MOST) -> None:
    """Raise TooLarge for a JSON text with more than `most` tokens, or BadRequest if the tokens are levels.

    Characters inside strings are not counted. The check takes constant time. If the text has many commas and brackets,
    it is also copied once or twice.
    """
    many = _openings(text)  # an upper bound: characters inside strings are counted too
    # One opening stands before each value, or name and value. So there are at most twice as many strings.
    if many <= most // 3 or many + text.count(b'"') // 2 <= most:
        return
    flat = text
    if b"\\" in flat:
        flat = flat.replace(b"\\\\", b"").replace(b'\\"', b"")
    if _counted(flat, most) <= most:
        return
    first = flat[:most]
    if first.count(b"[") + first.count(b"{") - first.count(b"]") - first.count(b"}") > DEEP:
        raise BadRequest("this JSON is nested too deep: RestMQ reads at least 100 levels")
    raise TooLarge(
        f"this JSON has more than {most} strings, commas and brackets, which is the limit; "
        "send a value that has more as a string"
    )


def _counted(flat: bytes, most: int) -> int:
    """The number of tokens in a text without escapes. Counting stops where there are more than `most`."""
    many = quotes = 0
    for start in range(0, len(flat), PIECE):
        pieces = flat[start : start + PIECE].split(b'"')
        many += sum(map(_openings, pieces[quotes % 2 :: 2]))  # every second piece is inside a string
        quotes += len(pieces) - 1
        if many + quotes // 2 > most:
            break
    return many + quotes // 2


def _openings(text: bytes) -> int:
    """The number of characters that stand before a value, or a name and its value. The first value has none."""
    return text.count(b",") + text.count(b"[") + text.count(b"{")
