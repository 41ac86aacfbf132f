"""/healthz and /readyz, and what the log says of a Redis that does not serve well."""

from __future__ import annotations

from typing import Any

from tests.support.patience import until
from tests.support.redis_server import RedisServer

NO_FILE = "Redis has no append-only file"


def test_health_and_readiness(instance: Any, start: Any, redis_server: Any) -> None:
    assert instance.http("GET", "/healthz")[2] == b"OK\r\n"
    assert instance.http("GET", "/readyz")[2] == b"OK\r\n"
    one = start("[server]\nhosts = broker.example\n[rest:consumer]\nhosts_deny = all\n")
    for path in ("/healthz", "/readyz"):
        assert one.http("GET", path)[0] == 200
    assert one.http("GET", "/")[0] == 421


def test_who_cannot_hear_live_elements_yet_is_not_ready(own: RedisServer, start: Any, listen: Any) -> None:
    one = start("", own.address)
    link = own.client()
    listen(one, "/c/news")
    link.config_set("maxclients", 2)  # the test itself, and the connection over which commands go
    assert link.client_kill_filter(_type="pubsub") == 1
    until(lambda: one.http("GET", "/readyz")[0] == 503)
    assert b"live elements" in one.http("GET", "/readyz")[2]
    assert one.form("/q/jobs", "value=x")[0] == 200
    link.config_set("maxclients", 100)
    until(lambda: one.http("GET", "/readyz")[0] == 200)


def test_the_log_says_what_is_not_well_with_redis_once_each_time_it_changes(own: RedisServer, start: Any) -> None:
    link = own.client()
    one = start("", own.address)

    def said(words: str) -> int:
        count: int = one.log.read_text().count(words)
        return count

    link.config_set("appendonly", "no")
    for _ in range(3):
        assert NO_FILE.encode() in one.http("GET", "/readyz")[2]
    assert said(NO_FILE) == 1
    link.config_set("maxmemory", 100_000_000)
    link.config_set("maxmemory-policy", "allkeys-lru")
    assert b"evicts keys" in one.http("GET", "/readyz")[2]
    assert (said(NO_FILE), said("evicts keys")) == (1, 1)
    link.config_set("appendonly", "yes")
    link.config_set("maxmemory-policy", "noeviction")
    until(lambda: one.http("GET", "/readyz")[2] == b"OK\r\n")
    assert (said(NO_FILE), said("evicts keys"), said("serves well again")) == (1, 1, 1)
    link.config_set("appendonly", "no")
    until(lambda: said(NO_FILE) == 2)  # nobody asked: it looks by itself
