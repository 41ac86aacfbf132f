"""The access log: a line a request, and who was refused.

Owns what of a request may be shown; knows no handler. Both are written at the
wheel's tick, so that no request waits for them. Read http/handler.py next.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twisted.logger import Logger, LogLevel, globalLogPublisher
from twisted.python.logfile import LogFile

from restmq.http.request import Request
from restmq.model.errors import Error
from restmq.model.urlencoded import pairs
from restmq.runtime.plainfile import appendable
from restmq.runtime.ticker import Wheel

log = Logger()
NO_ADDRESS = "a unix socket"


class Access:
    """The access log: a line a request, made and written at the wheel's tick, so that no request waits for it.

    127.0.0.1 POST /q/test?ttl=5m 200 8 0.42
    is client, method, target, status, bytes of the body and milliseconds; `write` is
    given a list of (time in seconds since 1970, line). Nothing of a target can break
    a line: it has neither spaces nor control characters. What parameters hold that
    look like a secret, or are what is stored, is not shown.
    """

    HIDDEN = (
        b"password", b"passwd", b"auth", b"authorization", b"token", b"access_token", b"secret", b"api_key",
        b"value", b"msg", b"body",
    )  # fmt: skip

    def __init__(self, wheel: Wheel, write: Callable[[list[tuple[float, str]]], object]) -> None:
        self._waiting: list[tuple[float, str, str, bytes, int, int, float]] = []
        self._write = write
        wheel.each(self.flush)

    def __call__(self, request: Request, status: int, size: int) -> None:
        """Note a request that was answered."""
        spent = request.request_time()
        self._waiting.append((time.time(), request.remote_ip, request.method, request.target, status, size, spent))
        if len(self._waiting) >= 10_000:
            self.flush()

    def flush(self) -> None:
        """Write what was noted."""
        if not self._waiting:
            return
        waiting, self._waiting = self._waiting, []
        lines = []
        for when, client, method, target, status, size, spent in waiting:
            shown = self._masked(target).decode("ascii", "backslashreplace")
            lines.append((when, f"{client or '-'} {method} {shown} {status} {size} {spent * 1000:.2f}"))
        self._write(lines)

    def _masked(self, target: bytes) -> bytes:
        path, mark, query = target.partition(b"?")
        parts = query.split(b"&") if mark else []
        for place, part in enumerate(parts):
            word, given, _ = part.partition(b"=")
            if given and any(known.strip().lower() in self.HIDDEN for known, _ in pairs(word)):
                parts[place] = word + b"=***"
        return path + mark + b"&".join(parts)


def to_log(lines: list[tuple[float, str]]) -> None:
    """Write the access log's lines into the log, each with its own time."""
    for when, text in lines:
        event = {"log_time": when, "log_level": LogLevel.info, "log_namespace": __name__}
        globalLogPublisher({**event, "log_format": "{text}", "text": text})


class ToFile:
    """Writes the access log's lines into a file of its own; at `size` bytes it is put aside, and `kept` are kept."""

    def __init__(self, path: Path, size: int, kept: int) -> None:
        self._path, self._size, self._kept = path, size, kept
        self._file: Any = None

    def open(self) -> None:
        """Open it, as whoever writes it: root's file could not be put aside later. Raises OSError."""
        appendable(self._path)
        self._file = LogFile.fromFullPath(
            str(self._path), rotateLength=self._size, maxRotatedFiles=self._kept, defaultMode=0o640
        )

    def __call__(self, lines: list[tuple[float, str]]) -> None:
        """Write them, the time before each. A disk that is full costs these lines, not the requests."""
        text = []
        for when, line in lines:
            text.append(f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(when))}.{int(when % 1 * 1000):03d}Z {line}\n")
        try:
            self._file.write("".join(text))
        except OSError as error:
            log.error("{count} lines of {path} are lost: {error}", count=len(lines), path=self._path, error=error)


class Refusals:
    """Who was refused (401, 403, 421, 429 of access), counted, and in the log one line a second for each address.

    So nobody can fill it. Of an address in a second one refusal is told, a wrong password before any other, with how
    many there were of each kind; of more than MOST addresses in a second only the sum. `counts` is for /metrics.
    """

    MOST = 50
    #: Each kind (Error.refusal), as the line of the log names it.
    KINDS = {
        "wrong-password": "wrong passwords",
        "not-looked-at": "passwords that were not looked at",
        "no-password": "without the password",
        "forbidden": "forbidden",
        "misdirected": "by another name",
        "too-many": "one live consumer too many",
    }

    def __init__(self, wheel: Wheel) -> None:
        self.counts: Counter[str] = Counter(dict.fromkeys(self.KINDS, 0))
        self._waiting: dict[str, _Refused] = {}  # by address
        self._others: Counter[str] = Counter()
        wheel.each(self.flush)

    def note(self, request: Request, error: Error) -> None:
        """A request, or a command of a WebSocket's, ended so; errors that refuse nobody are passed over.

        The query is not kept: it may hold a secret.
        """
        kind = error.refusal
        if not kind:
            return
        self.counts[kind] += 1
        address = request.remote_ip
        known = self._waiting.get(address)
        if known is not None:
            known.kinds[kind] += 1
            if kind == "wrong-password" != known.error.refusal:
                known.method, known.path, known.error = request.method, request.raw_path, error
        elif len(self._waiting) < self.MOST:
            self._waiting[address] = _Refused(request.method, request.raw_path, error, Counter([kind]))
        else:
            self._others[kind] += 1

    def flush(self) -> None:
        """Tell what was noted."""
        waiting, self._waiting = self._waiting, {}
        others, self._others = self._others, Counter()
        for address, one in waiting.items():
            more = sum(one.kinds.values()) - 1
            guessed = one.kinds["wrong-password"] or one.kinds["not-looked-at"]
            log.warn(
                "{who} was refused with {status}: {method} {path}: {why}{kinds}{more}",
                who=address or NO_ADDRESS,
                status=one.error.status,
                method=one.method,
                path=one.path[:200].decode("ascii", "backslashreplace"),
                why=one.error.text[:300],
                kinds=f"; in all: {self._told(one.kinds)}" if guessed and more else "",
                more=f" (and {more} more)" if more and not guessed else "",
            )
        if others:
            total, kinds = sum(others.values()), self._told(others)
            log.warn("{total} requests of further addresses were refused ({kinds})", total=total, kinds=kinds)

    def _told(self, kinds: Counter[str]) -> str:
        return ", ".join(f"{kinds[kind]} {words}" for kind, words in self.KINDS.items() if kinds[kind])


@dataclass
class _Refused:
    """What was refused of one address in a second: the request that is told, and how many of each kind."""

    method: str
    path: bytes
    error: Error
    kinds: Counter[str]
