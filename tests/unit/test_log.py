"""What a line of the log looks like, and what never stands in it."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.logger import LogEvent, Logger, LogLevel, LogPublisher
from twisted.python.failure import Failure

from restmq import log
from tests.support.observer import Observer


def lines(level: str, *args: object, **fields: object) -> str:
    """What one call of a logger writes."""
    events: list[LogEvent] = []
    Logger("restmq.test", observer=LogPublisher(Observer(events.append))).__getattribute__(level)(*args, **fields)
    events[0]["log_time"] = 1795440506.0129
    return log.line(events[0]) or ""


def failed(text: str) -> Failure:
    try:
        raise RuntimeError(text)
    except RuntimeError:
        return Failure()


def test_an_event_is_one_line_of_time_level_and_message() -> None:
    assert lines("info", "queue {q} purged", q="jobs") == "2026-11-23T13:28:26.012Z info queue jobs purged\n"


def test_a_traceback_is_folded_below_its_line() -> None:
    first, *rest = lines("failure", "adding failed", failed("boom")).splitlines()
    assert first.endswith("critical adding failed")
    assert rest and all(line.startswith("    | ") for line in rest) and "RuntimeError: boom" in rest[-1]


def test_what_a_client_sent_cannot_look_like_a_line_of_its_own() -> None:
    text = lines("warn", "{x}", x="a\n2026-11-23T00:00:00.000Z info forged\r\rb\x1b[2J\u2028c\x85d")
    assert text.count("\n2026") == 0 and len(text.splitlines()) == 2
    assert "\\x0d\\x0db\\x1b[2J\\x2028c\\x85d" in text


@pytest.mark.parametrize(
    "text",
    [
        "redis://jo:hunter2@127.0.0.1:6379/0",
        "rediss://:hunter2@[::1]:6379",
        "Authorization: Basic hunter2==",
        "{b'authorization': b'Basic hunter2=='}",
        "authorization Bearer hunter2",
        "Cookie: a=b; auth=jo:hunter2; c=d",
        "{b'cookie': b'auth=hunter2'}",
        "password = hunter2",
        "redis_password='hunter2', redis_db=0",
    ],
)
def test_passwords_never_appear(text: Any) -> None:
    for shown in (lines("warn", "{x}", x=text), lines("failure", "", failed(text))):
        assert "hunter2" not in shown and "***" in shown


def test_an_address_without_a_password_is_left_as_it_is() -> None:
    assert "http://a:80/b@c and redis://127.0.0.1:6379/0" in lines(
        "info", "http://a:80/b@c and redis://127.0.0.1:6379/0"
    )


def test_twisteds_own_chatter_is_left_out_and_its_errors_are_not() -> None:
    for text in ("Application starting on 8888", "(TCP Port 8888 Closed)"):
        event = {"log_format": "{log_text}", "log_text": text, "log_time": 0.0, "log_level": LogLevel.info}
        assert log.line(event) is None
    event = {"log_format": "Starting factory {factory!r}", "factory": 1, "log_time": 0.0}
    assert log.line({**event, "log_level": LogLevel.info}) is None
    assert "Starting factory" in (log.line({**event, "log_level": LogLevel.error}) or "")
    assert lines("debug", "x") == ""


def test_a_log_file_is_not_for_everybody(tmp_path: Any) -> None:
    log.observer(str(tmp_path / "log"))({"log_time": 0.0, "log_format": "hello", "log_level": LogLevel.info})
    assert (tmp_path / "log").read_text() == "1970-01-01T00:00:00.000Z info hello\n"
    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o640
