"""How much is in a JSON text, told before it is parsed: what is small on the wire may be large in memory.

Owns the one bound on it. An empty list is two bytes of text and sixty of memory,
so a MiB of them would take forty. Knows nothing of what a document means.
"""

from __future__ import annotations

import re
from itertools import islice

from restmq.errors import BadRequest, TooLarge

MOST = 50_000  # strings, commas and opening brackets in one document
FEW = 2000  # the same for options and settings
DEEP = 1000  # levels that no reader follows
_TOKEN = re.compile(rb'"[^"]*"|[,\[{]')


def bounded(text: bytes, most: int = MOST) -> None:
    """Raises TooLarge for a JSON text with more than `most` tokens, BadRequest if they are levels.

    What stands in strings is no token.

    Takes a constant time, but for copying the text once or twice if it has many commas and brackets.
    """
    # Before each value, or name and value, stands one of these: so there are at most twice as many strings.
    if text.count(b",") + text.count(b"[") + text.count(b"{") <= most // 3:
        return
    flat = text
    if b"\\" in flat:
        flat = flat.replace(b"\\\\", b"").replace(b'\\"', b"")
    if next(islice(_TOKEN.finditer(flat), most, None), None) is None:
        return
    first = flat[:most]
    if first.count(b"[") + first.count(b"{") - first.count(b"]") - first.count(b"}") > DEEP:
        raise BadRequest("this JSON is nested too deep: a hundred levels are sure to be read")
    raise TooLarge(
        f"this JSON has more than {most} strings, commas and brackets, which are the most; "
        "a value that has more is sent as a string"
    )
