"""The access log, a line a request, and the log of refused clients.

Owns which parts of a request may be shown. Knows no handler. Both logs are written at the wheel's tick, so that no
request waits for them. Read http/handler.py next.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from twisted.logger import Logger, LogLevel, globalLogPublisher
from twisted.python.logfile import LogFile

from restmq.http.request import Request
from restmq.model.errors import Error
from restmq.model.urlencoded import pairs
from restmq.runtime.plainfile import appendable
from restmq.runtime.ticker import Wheel

log = Logger()
NO_ADDRESS = "a unix socket"


class AccessLog:
    """The access log: a line a request, made and written at the wheel's tick, so that no request waits for it.

        127.0.0.1 POST /q/test?ttl=5m 200 8 0.42

    These are client, method, target, status, bytes of the body, and milliseconds. `write` gets a list of (time in
    seconds since 1970, line). A target cannot break a line, because it has neither spaces nor control characters.
    Parameters that look like a secret, or hold what is stored, are masked.
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
        """Note an answered request."""
        spent = request.request_time()
        self._waiting.append((time.time(), request.remote_ip, request.method, request.target, status, size, spent))
        if len(self._waiting) >= 10_000:
            self.flush()

    def flush(self) -> None:
        """Write the noted lines."""
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
            name, given, _ = part.partition(b"=")
            if given and any(known.strip().lower() in self.HIDDEN for known, _ in pairs(name)):
                parts[place] = name + b"=***"
        return path + mark + b"&".join(parts)


def to_log(lines: list[tuple[float, str]]) -> None:
    """Write the access log's lines into the log, each with its own time."""
    for when, text in lines:
        event = {"log_time": when, "log_level": LogLevel.info, "log_namespace": __name__}
        globalLogPublisher({**event, "log_format": "{text}", "text": text})


class AccessLogFile:
    """Writes the access log's lines into a file of its own.

    At `size` bytes the file is put aside; `kept` old files are kept.
    """

    def __init__(self, path: Path, size: int, kept: int) -> None:
        self._path, self._size, self._kept = path, size, kept
        self._file: LogFile | None = None

    def open(self) -> None:
        """Open the file as the user that writes it: a file of root's could not be put aside later. Raises OSError."""
        appendable(self._path)
        self._file = LogFile.fromFullPath(
            str(self._path), rotateLength=self._size, maxRotatedFiles=self._kept, defaultMode=0o640
        )

    def __call__(self, lines: list[tuple[float, str]]) -> None:
        """Write the lines, each after its time. If the disk is full, these lines are lost, but no request fails."""
        text = []
        for when, line in lines:
            text.append(f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(when))}.{int(when % 1 * 1000):03d}Z {line}\n")
        assert self._file is not None, "open() was not called"
        try:
            self._file.write("".join(text))
        except OSError as error:
            log.error("{count} lines of {path} are lost: {error}", count=len(lines), path=self._path, error=error)


class Refusals:
    """The refused clients (401, 403, 421, and 429 of access): counts, and a line a second in the log for each address.

    So a client cannot fill the log. For an address, a second's line shows one refusal, a wrong password before any
    other, and how many there were of each kind. If more than MOST addresses are refused in a second, the others are
    only summed up. `counts` is for /metrics.
    """

    MOST = 50
    #: The kinds of refusal (Error.refusal), as the log names them.
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
        """Note an error that answers a request or a WebSocket's command. Errors that are not refusals are passed over.

        The query is not kept, because it may hold a secret.
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
        """Log what was noted."""
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
                kinds=f"; in all: {self._summary(one.kinds)}" if guessed and more else "",
                more=f" (and {more} more)" if more and not guessed else "",
            )
        if others:
            total, kinds = sum(others.values()), self._summary(others)
            log.warn("{total} requests of further addresses were refused ({kinds})", total=total, kinds=kinds)

    def _summary(self, kinds: Counter[str]) -> str:
        return ", ".join(f"{kinds[kind]} {words}" for kind, words in self.KINDS.items() if kinds[kind])


@dataclass
class _Refused:
    """The refusals of one address in a second: the request that the log shows, and the number of each kind."""

    method: str
    path: bytes
    error: Error
    kinds: Counter[str]
