"""Files that may be written anew while RestMQ runs: whether they have changed, and are complete.

Owns the comparison. Reads no file, and knows nothing of what is in one. access/acl.py and tls.py look once a second.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path


class Changes:
    """The changes of a set of files. `paths` answers their paths, which may change too."""

    def __init__(self, paths: Callable[[], Iterable[Path]]) -> None:
        self._paths = paths
        self._reported = self._last = self._signature()

    def found(self) -> bool:
        """Whether the files have changed and are at rest. Answers True once for each change.

        At rest means the same at two calls. An editor may empty a file before it writes it, and several files may
        belong together.
        """
        now = self._signature()
        at_rest = now == self._last
        self._last = now
        if not at_rest or now == self._reported:
            return False
        self._reported = now
        return True

    def _signature(self) -> tuple[tuple[Path, int, int, int], ...]:
        """Path, time, size and inode of each file (stat(2)). They differ when a file differs."""
        found = []
        for path in self._paths():
            try:
                stat = path.stat()
            except OSError:
                continue  # the code that reads it reports this
            found.append((path, stat.st_mtime_ns, stat.st_size, stat.st_ino))
        return tuple(found)
