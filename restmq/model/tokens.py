"""How much is in a JSON text, told before it is parsed: what is small on the wire may be large in memory.

Owns the one bound on it. An empty list is two bytes of text and sixty of memory,
so a MiB of them would take forty. Knows nothing of what a document means.
"""

from __future__ import annotations

from restmq.model.element import PIECE
from restmq.model.errors import BadRequest, TooLarge

MOST = 50_000  # strings, commas and opening brackets in one document
FEW = 2000  # the same for options and settings
DEEP = 1000  # levels that no reader follows


def bounded(text: bytes, most: int = MOST) -> None:
    """Raises TooLarge for a JSON text with more than `most` tokens, BadRequest if they are levels.

    What stands in strings is no token.

    Takes a constant time, but for copying the text once or twice if it has many commas and brackets.
    """
    many = _openings(text)  # and what stands in strings: no more than this
    # Before each value, or name and value, stands one: so there are at most twice as many strings.
    if many <= most // 3 or many + text.count(b'"') // 2 <= most:
        return
    flat = text
    if b"\\" in flat:
        flat = flat.replace(b"\\\\", b"").replace(b'\\"', b"")
    if _counted(flat, most) <= most:
        return
    first = flat[:most]
    if first.count(b"[") + first.count(b"{") - first.count(b"]") - first.count(b"}") > DEEP:
        raise BadRequest("this JSON is nested too deep: a hundred levels are sure to be read")
    raise TooLarge(
        f"this JSON has more than {most} strings, commas and brackets, which are the most; "
        "a value that has more is sent as a string"
    )


def _counted(flat: bytes, most: int) -> int:
    """The tokens of a text without escapes, or those up to a place where there are more than `most`."""
    many = quotes = 0
    for start in range(0, len(flat), PIECE):
        pieces = flat[start : start + PIECE].split(b'"')
        many += sum(map(_openings, pieces[quotes % 2 :: 2]))  # every second piece is within a string
        quotes += len(pieces) - 1
        if many + quotes // 2 > most:
            break
    return many + quotes // 2


def _openings(text: bytes) -> int:
    """What stands before each value, or name and value, but the first one."""
    return text.count(b",") + text.count(b"[") + text.count(b"{")
