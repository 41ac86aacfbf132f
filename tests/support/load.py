"""How much load a test makes: all of it, or less for every change.

RESTMQ_LOAD_SECONDS, when it is given, is how many seconds a load lasts, and cuts whatever else takes long.
"""

from __future__ import annotations

import os

SECONDS = float(os.environ.get("RESTMQ_LOAD_SECONDS", "60"))
CUT = "RESTMQ_LOAD_SECONDS" in os.environ


def many(whole: int, cut: int) -> int:
    """So many of something, or fewer when loads are cut."""
    return cut if CUT else whole
