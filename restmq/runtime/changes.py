"""Files that somebody may write anew while RestMQ runs: whether they changed, and are whole by now.

Owns the comparison; reads no file, and knows nothing of what stands in one. access/acl.py and tls.py
look once a second.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path


class Changes:
    """Changes of the files whose paths `paths` answers; which these are may change, too."""

    def __init__(self, paths: Callable[[], Iterable[Path]]) -> None:
        self._paths = paths
        self._reported = self._last = self._signature()

    def found(self) -> bool:
        """Whether the files are others than before and at rest, told once for each change.

        At rest means the same at two calls: an editor may empty a file before it writes it, and what belongs
        together may be several files.
        """
        now = self._signature()
        at_rest = now == self._last
        self._last = now
        if not at_rest or now == self._reported:
            return False
        self._reported = now
        return True

    def _signature(self) -> tuple[tuple[Path, int, int, int], ...]:
        """What is another when a file is another than before: path, time, size and inode (stat(2))."""
        found = []
        for path in self._paths():
            try:
                stat = path.stat()
            except OSError:
                continue  # whoever reads it will say so
            found.append((path, stat.st_mtime_ns, stat.st_size, stat.st_ino))
        return tuple(found)
