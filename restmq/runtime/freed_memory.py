"""Freed memory is given back to the system, on Linux with glibc. Elsewhere there is nothing to do.

glibc keeps freed memory that lies below something in use, for as long as the process runs. After a large body that
may be megabytes. http/server.py calls trim() at the next second.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable


def _trim() -> Callable[[int], int]:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # another C library; Windows has no CDLL(None)
        return lambda pad: 0


#: malloc_trim(3): 40 us in an idle instance, some 50 ms for each GB that is free in small pieces.
trim = _trim()
