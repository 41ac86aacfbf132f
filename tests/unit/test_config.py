"""restmq.conf: what it may say, and how it is refused."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from restmq import config
from restmq.config import Config, ConfigError, load
from tests import ROOT

SHIPPED = ROOT / "restmq.conf"

#: What the first RestMQ shipped, in its own words.
FIRST = """\
[server]
debug = true
xheaders = false
acl_file = restmq_acl.conf

[frontend]
static_path = frontend/static
template_path = frontend/template

[redis]
enabled = yes
# unixsocket = /tmp/redis.sock
host = 127.0.0.1
port = 6379
dbid = 3
poolsize = 10

[email]
enabled = no
host = smtp.example.com
port = 587
tls = yes
username = foo
password = bar
"""


@pytest.fixture
def conf(tmp_path: Any) -> Any:
    """Loads a configuration from its text."""

    def write(text: str, **overrides: object) -> Config:
        path = tmp_path / "restmq.conf"
        path.write_text(text)
        return load(path, **overrides)

    return write


def refused(conf: Any, text: str) -> str:
    with pytest.raises(ConfigError) as error:
        conf(text)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_without_a_file_everything_has_its_default() -> None:
    assert load(None) == Config()


def test_the_shipped_file_changes_nothing_and_neither_do_its_commented_defaults(conf: Any) -> None:
    text = SHIPPED.read_text()
    assert dataclasses.replace(load(SHIPPED), source=None, acl=None) == Config()
    awake = conf(re.sub(r"(?m)^#(\w+ =)", r"\1", text))
    assert dataclasses.replace(awake, source=None, acl=None) == Config()


def test_the_shipped_file_explains_every_setting() -> None:
    text = SHIPPED.read_text()
    for section, keys in config._KEYS.items():
        body = text.partition(f"\n[{section}]\n")[2].partition("\n[")[0]
        for key in keys:
            assert re.search(rf"(?m)^#(# )?{key} =", body), f"[{section}] {key}"


def test_the_access_rules_of_the_shipped_file_are_rules_when_they_are_taken_out(conf: Any) -> None:
    text = SHIPPED.read_text().replace("## [rest", "[rest")
    found = conf(re.sub(r"(?m)^## (hosts_allow|hosts_deny|username|password) =", r"\1 =", text))
    rule = config.access(found)._rules["rest:producer"][0]
    assert "192.168.0.9" in rule.allow and rule.credentials == b"somebody:something"


def test_the_first_restmq_conf_is_understood_and_what_does_nothing_is_said(conf: Any, tmp_path: Any) -> None:
    (tmp_path / "restmq_acl.conf").write_text("[rest:producer]\n#hosts_deny = all\n")
    settings = conf(FIRST)
    assert (settings.redis, settings.redis_db) == ("127.0.0.1:6379", 3)
    assert settings.acl == tmp_path / "restmq_acl.conf"
    assert settings.static_path == tmp_path / "frontend/static"
    told = " ".join(settings.notes)
    assert len(settings.notes) == 9
    for said in ("restmq.conf:2: [server] debug", "[redis] enabled", "[redis] poolsize", "[email] password"):
        assert said in told
    assert "bar" not in told


def test_a_redis_by_unixsocket_weighs_more_than_host_and_port(conf: Any) -> None:
    settings = conf("[redis]\nunixsocket = /tmp/redis.sock\nhost = 127.0.0.1\n")
    assert settings.redis == "unix:/tmp/redis.sock"
    assert settings.notes == ("[redis] host and port do nothing: unixsocket says where Redis is",)


def test_two_ways_to_name_redis_are_one_too_many(conf: Any) -> None:
    said = refused(conf, "[redis]\nhost = 127.0.0.1\nredis = auto\n")
    assert "restmq.conf:3: [redis] redis" in said and "host" in said


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("[server]\nprot = 1\n", ("restmq.conf:2: [server] prot", "did you mean 'port'?")),
        ("[sever]\nport = 1\n", ("restmq.conf:1: the section [sever]", "did you mean 'server'?")),
        ("[rest:producers]\n", ("restmq.conf:1:", "did you mean 'rest:producer'?")),
        (
            "[rest:producer]\nhost_allow = all\n",
            ("restmq.conf:2: [rest:producer] host_allow", "hosts_allow'?"),
        ),
        ("[server]\nhost = 0.0.0.0\n", ("[server] host is not known, did you mean 'listen'?",)),
        ("[server]\nheartbeat = 3\n", ("[server] heartbeat is not known", "it belongs in [live]")),
        ("[server]\nport = 70000\n", ("restmq.conf:2: [server] port: it takes a number from 0 to 65535",)),
        ("[server]\nport = ²\n", ("a number",)),
        ("[server]\nport = 1\n\nport = 2\n", ("restmq.conf:4: [server] port stands there twice",)),
        ("[server]\n[server]\n", ("restmq.conf:2: the section [server] stands there twice",)),
        ("port = 1\n", ("restmq.conf:1: this line stands before the first section",)),
        ("[server]\nport\n", ("restmq.conf:2: this line is neither",)),
        ("[DEFAULT]\nport = 1\n", ("the section [DEFAULT] is not known",)),
        ("[live]\nheartbeat = soon\n", ("[live] heartbeat: it takes a time",)),
        ("[live]\nheartbeat = 2d\n", ("it takes 0.1 to 3600 seconds",)),
        ("[limits]\nmax_value = 1.5m\n", ("it takes a size",)),
        ("[limits]\nmax_value = 0\n", ("it takes 1 to",)),
        ("[limits]\nmax_body = 2m\n", ("[limits] max_body", "3211264")),
        ("[server]\nget_consumes = perhaps\n", ("it takes yes or no",)),
        ("[server]\nxheader = X-Real\n", ("it takes X-Real-IP or X-Forwarded-For",)),
        ("[server]\ntrusted_proxies = all\n", ("invent its address",)),
        ("[server]\ntrusted_proxies = nginx\n", ("'nginx' is not an address",)),
        ("[server]\nhosts = http://a/\n", ("is not a host",)),
        ("[server]\nallowed_origins = *\n", ("is not an origin",)),
        ("[server]\nallowed_origins = example.com\n", ("is not an origin",)),
        ("[server]\nlisten = 127.0.0.1:9901\n", ("goes into port",)),
        ("[redis]\nredis = localhost\n", ("HOST:PORT",)),
    ],
)
def test_what_is_wrong_is_named_with_its_line_and_the_nearest_known_name(conf: Any, text: Any, parts: Any) -> None:
    said = refused(conf, text)
    for part in parts:
        assert part in said


def test_a_password_is_neither_in_a_refusal_nor_in_the_settings_as_text(conf: Any) -> None:
    assert "hunter" not in refused(conf, "[redis]\nredis = redis://:hunter2@127.0.0.1:6379/0\n")
    settings = conf("[redis]\npassword = hunter2\n")
    assert settings.redis_password == "hunter2" and "hunter2" not in repr(settings)


def test_values_may_hold_percent_hash_and_semicolon(conf: Any) -> None:
    assert conf("[redis]\npassword = 50%(x)s #1;2\n").redis_password == "50%(x)s #1;2"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("2.5", 2.5), (".5", 0.5), ("1500ms", 1.5), ("30s", 30), ("5m", 300), ("5 m", 300), ("1h", 3600)],
)
def test_times_are_seconds_or_have_a_unit(conf: Any, text: Any, seconds: Any) -> None:
    assert conf(f"[live]\nheartbeat = {text}\n").heartbeat == seconds


@pytest.mark.parametrize(("text", "size"), [("70000", 70000), ("64k", 65536), ("100 KiB", 102400), ("1MiB", 1 << 20)])
def test_sizes_are_bytes_or_have_a_unit(conf: Any, text: Any, size: Any) -> None:
    assert conf(f"[limits]\nmax_value = {text}\n").max_value == size


def test_a_larger_value_makes_room_for_a_larger_form(conf: Any) -> None:
    settings = conf("[limits]\nmax_value = 20MiB\n")
    assert settings.max_body == settings.max_form == (60 << 20) + (64 << 10)


def test_behind_a_proxy_loopback_is_trusted_unless_proxies_are_named(conf: Any) -> None:
    assert conf("[server]\nxheaders = true\n").trusted_proxies == ("127.0.0.0/8", "::1/128")
    named = conf("[server]\nxheaders = true\ntrusted_proxies = 10.0.0.0/8, 192.168.7.\n")
    assert named.trusted_proxies == ("10.0.0.0/8", "192.168.7.0/24")
    assert conf("[server]\nxheaders = no\n").trusted_proxies == ()


@pytest.mark.parametrize(
    ("listen", "endpoint"),
    [
        ("127.0.0.1", "tcp:8888:backlog=4096:interface=127.0.0.1"),
        ("::1", r"tcp:8888:backlog=4096:interface=\:\:1"),
        ("[::]", r"tcp:8888:backlog=4096:interface=\:\:"),
        ("unix:/run/restmq.sock", "unix:/run/restmq.sock:backlog=4096"),
        ("unix:/run/restmq.sock:mode=660", "unix:/run/restmq.sock:mode=660:backlog=4096"),
        ("unix:/run/restmq.sock:backlog=9", "unix:/run/restmq.sock:backlog=9"),
        ("tcp:9901:interface=10.0.0.1", "tcp:9901:interface=10.0.0.1"),
        ("systemd:domain=INET:index=0", "systemd:domain=INET:index=0"),
    ],
)
def test_it_listens_on_an_address_or_on_any_endpoint(listen: Any, endpoint: Any) -> None:
    assert load(None, listen=listen).endpoint == endpoint


def test_haproxys_protocol_is_no_endpoint_for_the_access_rules_would_see_the_proxys_address(conf: Any) -> None:
    assert "restmq.conf:2: [server] listen: it takes an address" in refused(
        conf, "[server]\nlisten = haproxy:tcp:8888\n"
    )
    with pytest.raises(ConfigError, match="command line: --listen: it takes an address"):
        load(None, listen="haproxy:tcp:8888")


def test_tls_is_an_endpoint_whose_port_stands_in_it(conf: Any) -> None:
    settings = conf("[server]\nlisten = ssl:9443:privateKey=key.pem:certKey=cert.pem\n", port="9901")
    assert settings.endpoint == "ssl:9443:privateKey=key.pem:certKey=cert.pem"


def test_the_command_line_weighs_more_than_the_file_and_is_checked_alike(conf: Any) -> None:
    settings = conf("[server]\nport = 1\n[redis]\nhost = other\n", port="9901", redis="embedded", data=None)
    assert (settings.port, settings.redis) == (9901, "embedded")
    with pytest.raises(ConfigError, match="command line: --port: it takes a number"):
        load(None, port="x")


def test_a_relative_path_begins_at_the_file_and_on_the_command_line_where_one_is(conf: Any, tmp_path: Any) -> None:
    assert conf("[server]\ndata = here\n").data == tmp_path / "here"
    assert load(None, data="here").data == Path.cwd() / "here"
    assert conf("[server]\nlisten = unix:run/x.sock:mode=660\n").listen == f"unix:{tmp_path}/run/x.sock:mode=660"
    assert load(None, listen="unix:x.sock").listen == f"unix:{Path.cwd()}/x.sock"


def test_a_port_that_an_endpoint_says_otherwise_is_told(conf: Any) -> None:
    for listen in ("tcp:8888:interface=127.0.0.1", "ssl:8443:privateKey=k.pem"):
        settings = conf(f"[server]\nlisten = {listen}\n", port="9902")
        assert settings.notes == (
            f"--port 9902 does nothing: listen = {listen} is an endpoint, which has its own port",
        )
    for listen in ("127.0.0.1", "unix:x.sock", "systemd:domain=INET:index=0"):
        assert conf(f"[server]\nlisten = {listen}\n", port="9902").notes == ()


def test_access_sections_stand_in_the_file_or_in_acl_file_not_in_both(conf: Any, tmp_path: Any) -> None:
    assert conf("[rest:producer]\nhosts_deny = all\n").acl == tmp_path / "restmq.conf"
    assert conf("[server]\nport = 1\n").acl == tmp_path / "restmq.conf"  # one may be written there later
    (tmp_path / "acl").write_text("")
    said = refused(conf, "[server]\nacl_file = acl\n[rest:producer]\nhosts_deny = all\n")
    assert "restmq.conf:3:" in said and "not in both" in said


def test_an_acl_file_that_is_not_there_is_not_taken_for_no_rules(conf: Any) -> None:
    assert "does not exist" in refused(conf, "[server]\nacl_file = gone\n")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Any) -> None:
    with pytest.raises(ConfigError, match="gone: cannot be read: No such file"):
        load(tmp_path / "gone")
    (tmp_path / "latin").write_bytes(b"[server]\n# caf\xe9\n")
    with pytest.raises(ConfigError, match="latin: is not UTF-8"):
        load(tmp_path / "latin")
