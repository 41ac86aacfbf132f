"""Memory that was freed goes back to the system. Linux with glibc; elsewhere there is nothing to do.

glibc keeps what was freed below something that is in use, and after a large body that
may be megabytes, for as long as the process runs. Read runtime/room.py next.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable


def _trim() -> Callable[[int], int]:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # another C library; Windows has no CDLL(None)
        return lambda pad: 0


#: malloc_trim(3): 40 us in an instance that is at rest, some 50 ms for each GB that lies about in small pieces.
trim = _trim()
