"""The log: one line an event, with time, level and message, and never a password.

Owns what a line looks like. Must not know who writes it: everybody uses
twisted.logger. A traceback stands below its line, indented, so that every line
that begins with a date is an event. Read tap.py next, which sets it up.
"""

from __future__ import annotations

import re
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, Any, cast

from twisted.logger import FileLogObserver, ILogObserver, LogEvent, LogLevel, formatEvent
from twisted.python.logfile import LogFile

from restmq.runtime.plainfile import appendable

#: A log file is put aside at this size (bytes), and this many are kept.
FILE_SIZE = 10 << 20
FILES = 10

_FOLD = "\n    | "
#: Characters of one event that are written.
MOST = 64 << 10
#: What comes right before a secret, and the secret: in URLs, header fields (as text or as Python shows
#: bytes), settings and cookies. Clients write into the log, so each is linear: a match can begin at few places, and
#: what is searched from one place is not searched again from the next.
_SECRETS = [
    re.compile(before + secret, re.IGNORECASE)
    for before, secret in (
        (r"(\b\w+://[^\s/@:]*:)", r"[^\s/@]+(?=@)"),
        (r"(\bauthorization[\Wb]{1,8}(?:basic|bearer)\s+)", r"[\w+/=.~-]+"),
        (r"(password['\"]?\s*[=:]\s*b?['\"]?)", r"[^\s'\",&;]+"),
        (r"(\bauth=)", r"[^\s;'\"&]+"),
    )
]
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")


def line(event: LogEvent) -> str | None:
    """One event as text, its end of line included; None for what is not worth one."""
    level = event.get("log_level", LogLevel.info)
    if level < LogLevel.info or (level is LogLevel.info and _is_chatter(event)):
        return None
    text = formatEvent(event)
    failure = event.get("log_failure")
    if failure is not None:
        text = f"{text or 'unhandled error'}\n{failure.getTraceback()}"
    if not text:
        return None
    for secret in _SECRETS:
        text = secret.sub(r"\1***", text)
    # What a client sent must not look like a line of its own, nor steer a terminal.
    text = text.rstrip()
    if len(text) > MOST:
        text = f"{text[:MOST]}… ({len(text) - MOST} characters more)"
    text = _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text.replace("\r\n", "\n"))
    when = datetime.fromtimestamp(event["log_time"], timezone.utc)
    stamp = when.strftime("%Y-%m-%dT%H:%M:%S.") + f"{when.microsecond // 1000:03d}Z"
    return f"{stamp} {level.name} {text.replace(chr(10), _FOLD)}\n"


def _is_chatter(event: LogEvent) -> bool:
    """Twisted's own words about its reactor and its factories: of no use to who runs RestMQ."""
    return str(event.get("log_format", "")).startswith(
        ("Starting factory", "Stopping factory", "Scheduling", "reactor class", "twistd ", "Server Shut", "Main loop")
    ) or str(event.get("log_text", "")).startswith(
        ("Main loop", "(TCP", "(UNIX", "(TLS", "Application starting on", "Application (TLS) starting on")
    )


def observer(path: str = "-") -> ILogObserver:
    """An observer for `twistd --logger restmq.log.observer`: writes to a file, or to standard output ("-").

    Raises OSError when something else than a plain file lies there.
    """
    out: Any = sys.stdout
    if path != "-":
        appendable(Path(path).absolute())
        out = LogFile.fromFullPath(path, rotateLength=FILE_SIZE, maxRotatedFiles=FILES, defaultMode=0o640)
    return cast(ILogObserver, FileLogObserver(cast("IO[Any]", out), line))
