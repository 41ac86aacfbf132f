"""The log: one line an event, with time, level and message, and never a password.

Owns the form of a line. Does not know which module writes it: all use twisted.logger. A traceback stands below its
line, indented, so that every line that begins with a date is an event. Read tap.py next, which sets the log up.
"""

from __future__ import annotations

import re
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, TextIO, cast

from twisted.logger import FileLogObserver, ILogObserver, LogEvent, LogLevel, formatEvent
from twisted.python.logfile import LogFile

from restmq.runtime.plainfile import appendable

#: A log file is put aside at this size in bytes, and so many are kept.
FILE_SIZE = 10 << 20
FILES = 10

_FOLD = "\n    | "
#: Most characters of one event that are written.
MOST = 64 << 10
#: The text right before a secret, and the secret: in URLs, header fields (as text or as Python shows bytes), settings
#: and cookies. Clients write into the log, so each search takes linear time: a match can begin at few places, and no
#: text is searched from two of them.
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
    """One event as text, with its end of line. None for an event that is not written."""
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
    # A client's text must not look like a line of its own, nor control a terminal.
    text = text.rstrip()
    if len(text) > MOST:
        text = f"{text[:MOST]}… ({len(text) - MOST} characters more)"
    text = _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text.replace("\r\n", "\n"))
    when = datetime.fromtimestamp(event["log_time"], timezone.utc)
    stamp = when.strftime("%Y-%m-%dT%H:%M:%S.") + f"{when.microsecond // 1000:03d}Z"
    return f"{stamp} {level.name} {text.replace(chr(10), _FOLD)}\n"


def _is_chatter(event: LogEvent) -> bool:
    """Whether an event is about Twisted's own reactor and factories, which operators do not need."""
    return str(event.get("log_format", "")).startswith(
        ("Starting factory", "Stopping factory", "Scheduling", "reactor class", "twistd ", "Server Shut", "Main loop")
    ) or str(event.get("log_text", "")).startswith(
        ("Main loop", "(TCP", "(UNIX", "(TLS", "Application starting on", "Application (TLS) starting on")
    )


def observer(path: str = "-") -> ILogObserver:
    """An observer for `twistd --logger restmq.log.observer`. It writes to a file, or to standard output ("-").

    Raises OSError if something else than a plain file lies at the path.
    """
    out: TextIO | LogFile = sys.stdout
    if path != "-":
        appendable(Path(path).absolute())
        out = LogFile.fromFullPath(path, rotateLength=FILE_SIZE, maxRotatedFiles=FILES, defaultMode=0o640)
    # FileLogObserver only writes, and a LogFile can do that, though it is not an IO.
    return cast(ILogObserver, FileLogObserver(cast("IO[str]", out), line))
