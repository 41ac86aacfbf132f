"""Access: contract by contract, addresses, passwords, hosts and the pages of browsers."""

from __future__ import annotations

import base64
import os
from dataclasses import dataclass, field
from typing import Any

import pytest
from twisted.logger import formatEvent, globalLogPublisher

from restmq.access.acl import KINDS, REMEMBERED, Acl
from restmq.access.origin import Origins
from restmq.model.errors import Forbidden, Misdirected, Unauthorized
from restmq.model.ini import ConfigError
from restmq.model.networks import Networks
from tests.support.observer import Observer


@dataclass
class Fields:
    values: dict[bytes, bytes] = field(default_factory=dict)


@dataclass
class Asked:
    """A request, as far as access looks at it."""

    fields: Fields
    method: str = "GET"
    raw_path: bytes = b"/q/test"
    raw_query: bytes = b""
    remote_ip: str = "10.0.0.7"
    peer_ip: str = "10.0.0.7"


def asked(target: str = "/q/test", ip: str = "10.0.0.7", method: str = "GET", peer: str = "", **headers: str) -> Any:
    path, _, query = target.encode().partition(b"?")
    values = {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}
    values.setdefault(b"host", b"10.0.0.1:8888")
    return Asked(Fields(values), method, path, query, ip, peer or ip)


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


@pytest.fixture
def rules(tmp_path: Any) -> Any:
    """Makes an Acl of the text of its file."""

    def make(text: str) -> Acl:
        (tmp_path / "acl.conf").write_text(text)
        return Acl(tmp_path / "acl.conf")

    return make


def admitted(acl: Acl, section: str, ip: str) -> bool:
    try:
        acl.check(section, asked(ip=ip))
    except Forbidden:
        return False
    return True


# ---- addresses


def test_a_section_that_is_absent_lets_everybody_in_by_address_alone() -> None:
    assert Acl().check("rest:producer", asked()) is True


@pytest.mark.parametrize(
    ("text", "let_in", "kept_out"),
    [
        ("", "10.0.0.7 ::1", ""),
        ("hosts_allow = 10.0.0.7", "10.0.0.7", "10.0.0.8 ::1"),
        ("hosts_deny = all", "", "10.0.0.7 ::1"),
        ("hosts_deny = 10.0.0.7", "10.0.0.8", "10.0.0.7"),
        ("hosts_allow = 10.0.0.7\nhosts_deny = all", "10.0.0.7", "10.0.0.8"),
        ("hosts_allow = 10.0.0.7\nhosts_deny = 10.0.0.7", "10.0.0.7", "10.0.0.8 10.1.1.1"),
        ("hosts_allow = all\nhosts_deny = 10.0.0.7", "10.0.0.7 10.0.0.8", ""),
        ("hosts_allow = 10.0.0.0/30, 2001:db8::/32", "10.0.0.3 2001:db8::5", "10.0.0.4 2001:db9::1"),
        ("hosts_deny = 192.168.0.", "192.168.1.1 192.168.100.1", "192.168.0.1"),
        ("hosts_allow = 192.168.", "192.168.7.7 ::ffff:192.168.7.7", "192.169.0.1"),
        ("hosts_allow = fe80::/10", "fe80::1%eth0", "::1"),
    ],
)
def test_hosts_allow_is_read_first_then_hosts_deny_then_what_hosts_allow_left_out(
    rules: Any, text: Any, let_in: Any, kept_out: Any
) -> None:
    acl = rules("[rest:producer]\n" + text)
    for ip in let_in.split():
        assert admitted(acl, "rest:producer", ip), ip
    for ip in kept_out.split():
        assert not admitted(acl, "rest:producer", ip), ip


def test_a_client_over_a_unix_socket_is_in_all_and_in_no_network(rules: Any) -> None:
    assert admitted(rules("[rest:producer]\nhosts_allow = all"), "rest:producer", "")
    assert not admitted(rules("[rest:producer]\nhosts_allow = 127.0.0.1"), "rest:producer", "")
    assert not admitted(rules("[rest:producer]\nhosts_deny = all"), "rest:producer", "")


@pytest.mark.parametrize("word", ["192.168.1", "example.com", "10.0.0.0/33", "1.2.3.4.", "a.", "ALL"])
def test_what_is_no_address_is_refused_at_the_start(rules: Any, word: Any) -> None:
    with pytest.raises(ConfigError, match=r"acl\.conf:2: \[admin\] hosts_deny: .*is not an address"):
        rules(f"[admin]\nhosts_deny = {word}")


def test_networks_are_written_back_as_cidr() -> None:
    assert Networks(["192.168.0.", "10.", "::1"]).cidr == ("192.168.0.0/24", "10.0.0.0/8", "::1/128")


# ---- sections


LIVE = ("comet:consumer", "sse:consumer", "websocket:consumer")


def test_a_live_section_that_is_absent_follows_rest_consumer_and_sse_comet_before_that(rules: Any) -> None:
    acl = rules("[rest:consumer]\nhosts_deny = all")
    assert not any(admitted(acl, section, "10.0.0.7") for section in LIVE)
    acl = rules("[rest:consumer]\nhosts_deny = all\n[comet:consumer]\n")
    assert [admitted(acl, section, "10.0.0.7") for section in LIVE] == [True, True, False]
    acl = rules("[rest:consumer]\n[comet:consumer]\nhosts_deny = all")
    assert [admitted(acl, section, "10.0.0.7") for section in LIVE] == [False, False, True]
    acl = rules("[comet:consumer]\nhosts_deny = all")
    assert [admitted(acl, section, "10.0.0.7") for section in LIVE] == [False, False, True]
    assert admitted(rules("[comet:consumer]\nhosts_deny = all\n[sse:consumer]\n"), "sse:consumer", "10.0.0.7")
    acl = rules("[rest:producer]\nhosts_deny = all")
    assert all(admitted(acl, section, "10.0.0.7") for section in LIVE)


def test_what_an_absent_section_follows_is_named_and_its_password_asked_for(rules: Any) -> None:
    acl = rules("[rest:consumer]\nusername = jo\npassword = pw\nhosts_deny = 10.0.0.9\n")
    for section in LIVE:
        with pytest.raises(Unauthorized, match=rf"\[{section}\] \(where \[rest:consumer\] holds\)"):
            acl.check(section, asked())
        with pytest.raises(Forbidden, match=rf"\[{section}\] \(where \[rest:consumer\] holds\)"):
            acl.check(section, asked(ip="10.0.0.9"))
        assert acl.check(section, asked(authorization=basic("jo", "pw"))) is False
    ours = {"upgrade": "websocket", "cookie": "auth=jo:pw", "origin": "http://10.0.0.1:8888"}
    assert acl.check("websocket:consumer", asked("/ws/test", **ours)) is False
    with pytest.raises(Unauthorized):  # a cookie is none of the others' business
        acl.check("sse:consumer", asked("/sse/test", cookie="auth=jo:pw", origin="http://10.0.0.1:8888"))


@pytest.mark.parametrize(
    ("text", "opened"),
    [
        ("", "rest:producer rest:consumer comet:consumer websocket:consumer sse:consumer admin"),
        ("[rest:producer]\nhosts_deny = all\n", "rest:consumer comet:consumer websocket:consumer sse:consumer"),
        ("[rest:consumer]\nhosts_allow = 10.0.0.1\n", "rest:producer"),
        ("[rest:consumer]\nhosts_deny = 10.0.0.1\n", "rest:producer rest:consumer comet:consumer "
         "websocket:consumer sse:consumer admin"),
        ("[rest:consumer]\nusername = a\npassword = b\n[sse:consumer]\nhosts_allow = all\n",
         "rest:producer sse:consumer"),
        ("[rest:producer]\nhosts_deny = all\n[rest:consumer]\nhosts_deny = all\n[admin]\n", "admin"),
        ("[rest:producer]\nhosts_deny = all\n[rest:consumer]\nhosts_deny = all\n", ""),
        ("[rest:producer]\nhosts_deny = all\n[rest:producer x]\nusername = a\npassword = b\n"
         "[rest:consumer]\nhosts_deny = all\n[rest:consumer office]\n",
         "rest:consumer comet:consumer websocket:consumer sse:consumer"),
    ],
)  # fmt: skip
def test_which_sections_are_open_is_told_with_those_that_follow_others(rules: Any, text: Any, opened: Any) -> None:
    found, closed = rules(text).open_and_closed()
    assert found == opened.split()
    assert sorted(found + closed) == sorted(KINDS)


def test_without_admin_both_producer_and_consumer_are_needed(rules: Any) -> None:
    text = "[rest:producer]\nhosts_allow = 10.0.0.7 10.0.0.8\n[rest:consumer]\nhosts_allow = 10.0.0.8 10.0.0.9\n"
    acl = rules(text)
    assert [admitted(acl, "admin", f"10.0.0.{n}") for n in (7, 8, 9)] == [False, True, False]
    acl = rules(text + "[admin]\nhosts_allow = 10.0.0.1\n")
    assert [admitted(acl, "admin", f"10.0.0.{n}") for n in (8, 1)] == [False, True]
    assert admitted(Acl(), "admin", "10.0.0.1")


def test_without_admin_a_password_of_one_of_the_two_is_asked_for(rules: Any) -> None:
    acl = rules("[rest:producer]\nusername = a\npassword = b\n")
    with pytest.raises(Unauthorized):
        acl.check("admin", asked())
    assert acl.check("admin", asked(authorization=basic("a", "b"))) is False
    acl = rules("[rest:producer]\nusername = a\npassword = b\n[rest:consumer]\nusername = a\npassword = c\n")
    with pytest.raises(Unauthorized):
        acl.check("admin", asked(authorization=basic("a", "b")))


def test_a_section_may_repeat_with_a_label_and_any_that_fits_lets_in(rules: Any) -> None:
    acl = rules(
        "[rest:producer]\nhosts_allow = 10.0.0.1\n"
        "[rest:producer orders]\nhosts_allow = 10.0.0.2\nusername = a\npassword = b\n"
        "[rest:producer bills]\nhosts_allow = 10.0.0.2\nusername = c\npassword = d\n"
    )
    assert acl.check("rest:producer", asked(ip="10.0.0.1")) is True
    assert acl.check("rest:producer", asked(ip="10.0.0.2", authorization=basic("a", "b"))) is False
    assert acl.check("rest:producer", asked(ip="10.0.0.2", authorization=basic("c", "d"))) is False
    with pytest.raises(Unauthorized):
        acl.check("rest:producer", asked(ip="10.0.0.2", authorization=basic("a", "d")))
    with pytest.raises(Forbidden):
        acl.check("rest:producer", asked(ip="10.0.0.3", authorization=basic("a", "b")))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[rest:producer]\nusername = a\n", "has no password"),
        ("[rest:producer]\npassword = a\n", "has no username"),
        ("[rest:producer]\nusername = a:b\npassword = c\n", "colon"),
        ("[rest:producer]\nuser = a\n", r"acl\.conf:2: \[rest:producer\] user is not known"),
        ("[server]\nport = 1\n", r"the section \[server\] is not known"),
        ("[rest:producer]\n[rest:producer]\n", "may be repeated with a label"),
    ],
)
def test_rules_that_are_no_rules_are_refused_at_the_start(rules: Any, text: Any, said: Any) -> None:
    with pytest.raises(ConfigError, match=said):
        rules(text)


def test_a_section_nobody_has_heard_of_is_a_fault_of_ours() -> None:
    with pytest.raises(ValueError, match="not an access section"):
        Acl().check("rest:producers", asked())


# ---- passwords

PASSWORD = "[{0}]\nusername = jo\npassword = p:ä %\n"


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Basic",
        "Basic !!",
        "Bearer am86cA==",
        basic("jo", "p"),
        basic("", ""),
        basic("Jo", "p:ä %"),
        "Basic" * 999,
    ],
)
def test_a_missing_or_wrong_password_is_401_with_basic(rules: Any, header: Any) -> None:
    acl = rules(PASSWORD.format("rest:producer"))
    with pytest.raises(Unauthorized) as error:
        acl.check("rest:producer", asked(**({"authorization": header} if header else {})))
    assert error.value.headers[0][0] == b"WWW-Authenticate" and error.value.headers[0][1].startswith(b"Basic ")
    assert "ä" not in error.value.text


def test_the_right_password_lets_in_and_is_asked_for_each_time(rules: Any) -> None:
    acl = rules(PASSWORD.format("rest:producer"))
    right = basic("jo", "p:ä %")
    assert acl.check("rest:producer", asked(authorization=right)) is False
    assert acl.check("rest:producer", asked(authorization=right.replace("Basic", "basic"))) is False
    with pytest.raises(Unauthorized):
        acl.check("rest:producer", asked())


def test_an_address_that_is_kept_out_is_403_with_the_right_password_too(rules: Any) -> None:
    acl = rules(PASSWORD.format("rest:producer") + "hosts_deny = all\n")
    with pytest.raises(Forbidden):
        acl.check("rest:producer", asked(authorization=basic("jo", "p:ä %")))


@pytest.mark.parametrize("cookie", ["auth=jo:p:ä %", "a=b; auth=jo%3Ap%3A%C3%A4%20%25", 'auth=no; auth="jo:p:ä %"'])
def test_a_websocket_may_show_the_cookie_if_it_says_its_origin(rules: Any, cookie: Any) -> None:
    acl = rules(PASSWORD.format("websocket:consumer") + PASSWORD.format("rest:producer"))
    upgrade = {"upgrade": "websocket", "cookie": cookie}
    request = asked("/ws/test", **upgrade, origin="http://10.0.0.1:8888")
    acl.origins.admit(request)
    assert acl.check("websocket:consumer", request) is False
    assert acl.check("rest:producer", request) is False  # a command on that socket
    with pytest.raises(Forbidden, match="Origin"):
        acl.check("websocket:consumer", asked("/ws/test", **upgrade))
    with pytest.raises(Forbidden, match="another origin"):
        acl.origins.admit(asked("/ws/test", **upgrade, origin="http://evil.example"))


def test_a_websocket_may_use_basic_and_needs_no_origin_then(rules: Any) -> None:
    acl = rules(PASSWORD.format("websocket:consumer"))
    assert acl.check("websocket:consumer", asked(authorization=basic("jo", "p:ä %"))) is False


def test_a_cookie_is_no_password_for_anything_but_a_websocket(rules: Any) -> None:
    acl = rules(PASSWORD.format("rest:producer"))
    with pytest.raises(Unauthorized):
        acl.check("rest:producer", asked(cookie="auth=jo:p:ä %", origin="http://10.0.0.1:8888"))


# ---- reload


def edit(tmp_path: Any, text: str) -> None:
    """Replace the file, as an editor does."""
    (tmp_path / "new").write_text(text)
    os.replace(tmp_path / "new", tmp_path / "acl.conf")


def seconds(acl: Acl, passing: int = 2) -> None:
    for _ in range(passing):
        acl.reload_if_changed()


def test_the_rules_are_read_again_when_the_file_changed_and_is_at_rest(rules: Any, tmp_path: Any) -> None:
    acl = rules("[rest:producer]\n")
    assert admitted(acl, "rest:producer", "10.0.0.7")
    edit(tmp_path, "[rest:producer]\nhosts_deny = all\n")
    seconds(acl, 1)
    assert admitted(acl, "rest:producer", "10.0.0.7") and acl.generation == 0
    seconds(acl, 1)
    assert not admitted(acl, "rest:producer", "10.0.0.7") and acl.generation == 1
    seconds(acl, 5)
    assert acl.generation == 1


def test_an_editor_that_empties_the_file_before_it_writes_lets_nobody_in(rules: Any, tmp_path: Any) -> None:
    acl = rules("[rest:producer]\nhosts_deny = all\n")
    edit(tmp_path, "")
    seconds(acl, 1)
    edit(tmp_path, "[rest:producer]\nhosts_deny = 10.0.0.7\n")
    seconds(acl, 1)
    assert not admitted(acl, "rest:producer", "10.0.0.7")
    seconds(acl, 1)
    assert not admitted(acl, "rest:producer", "10.0.0.7") and admitted(acl, "rest:producer", "10.0.0.8")


@pytest.mark.parametrize("broken", ["[rest:producer]\nhost_deny = all\n", "nonsense", None])
def test_a_file_that_is_no_longer_understood_keeps_the_old_rules_and_logs_one_line(
    rules: Any, tmp_path: Any, broken: Any
) -> None:
    acl = rules("[rest:producer]\nhosts_deny = 10.0.0.7\n")
    lines: list[str] = []
    keep = Observer(lambda event: lines.append(formatEvent(event)))
    globalLogPublisher.addObserver(keep)
    try:
        if broken is None:
            (tmp_path / "acl.conf").unlink()
        else:
            edit(tmp_path, broken)
        seconds(acl, 9)
    finally:
        globalLogPublisher.removeObserver(keep)
    assert not admitted(acl, "rest:producer", "10.0.0.7") and acl.generation == 0
    assert len(lines) == 1 and "stay as they were" in lines[0] and "acl.conf" in lines[0]
    edit(tmp_path, "[rest:producer]\nhosts_deny = 10.0.0.8\n")
    seconds(acl)
    assert admitted(acl, "rest:producer", "10.0.0.7")


def test_rules_in_restmq_conf_are_read_again_without_its_other_sections(tmp_path: Any) -> None:
    path = tmp_path / "acl.conf"
    path.write_text("[server]\nport = 1\n[rest:producer x]\nhosts_deny = all\n")
    acl = Acl(path, {"server"})
    assert not admitted(acl, "rest:producer", "10.0.0.7")
    edit(tmp_path, "[server]\nport = x\n[rest:producer x]\nhosts_deny = all\n")
    seconds(acl)
    assert acl.generation == 0
    edit(tmp_path, "[server]\nport = x\n")
    seconds(acl)
    assert admitted(acl, "rest:producer", "10.0.0.7") and acl.generation == 1


@pytest.mark.parametrize("slip", ["[rest:producers]", "[Rest:producer]", "[rest:producer:x]", "[server x]", ""])
def test_a_slip_in_restmq_conf_does_not_let_everybody_in(tmp_path: Any, slip: Any) -> None:
    path = tmp_path / "acl.conf"
    path.write_text("[server]\nport = 1\n[rest:producer]\nhosts_allow = 10.0.0.8\n")
    acl = Acl(path, {"server"})
    edit(tmp_path, f"[server]\nport = 1\n{slip}\nhosts_allow = 10.0.0.8\n" if slip else "")
    seconds(acl)
    assert not admitted(acl, "rest:producer", "10.0.0.7") and acl.generation == 0


def test_what_is_remembered_is_bounded(rules: Any) -> None:
    acl = rules("[rest:producer]\nhosts_deny = all\n")
    for n in range(REMEMBERED + 10):
        admitted(acl, "rest:producer", f"10.1.{n >> 8}.{n & 255}")
        with pytest.raises(Misdirected):
            acl.origins.admit(asked(ip=f"127.0.{n >> 8}.{n & 255}", host=f"h{n}.example"))
    for memory in (acl._verdicts, acl.origins._known_hosts, acl.origins._bare_peers):
        assert 0 < len(memory) <= REMEMBERED


# ---- hosts


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:8888", "LOCALHOST.:8888", "127.0.0.1:8888", "[::1]:8888", "10.1.1.1", ""]
)
def test_over_loopback_a_request_names_an_address_or_localhost(host: Any) -> None:
    Origins().admit(asked(ip="127.0.0.1", host=host))


@pytest.mark.parametrize("host", ["evil.example:8888", "localhost.evil.example", "127.0.0.1.evil.example", "[::1", "1"])
def test_over_loopback_another_name_is_421_that_names_the_setting(host: Any) -> None:
    with pytest.raises(Misdirected, match=r"hosts = in \[server\] of restmq.conf, or set xheaders = true there"):
        Origins().admit(asked(ip="127.0.0.1", host=host))
    with pytest.raises(Misdirected, match=r"hosts = in \[server\] of restmq.conf$"):  # with hosts, only these help
        Origins(hosts=["mq.example"]).admit(asked(ip="127.0.0.1", host=host))
    with pytest.raises(Misdirected):
        Origins().admit(asked(ip="::1", host=host))


def test_over_loopback_this_machine_may_be_named() -> None:
    import socket

    Origins().admit(asked(ip="127.0.0.1", host=socket.gethostname().upper() + ":8888"))


def test_over_the_network_or_a_unix_socket_or_from_a_trusted_proxy_any_name_will_do() -> None:
    acl = Acl(origins=Origins(trusted_proxies=["127.0.0.0/8"]))
    acl.origins.admit(asked(ip="10.0.0.7", host="mq.example"))
    acl.origins.admit(asked(ip="", host="mq.example"))
    acl.origins.admit(asked(ip="10.9.9.9", peer="127.0.0.1", host="mq.example"))
    with pytest.raises(Misdirected):
        Origins().admit(asked(ip="10.9.9.9", peer="127.0.0.1", host="mq.example"))


def test_with_hosts_given_every_request_must_name_one_of_them() -> None:
    acl = Acl(origins=Origins(hosts=["mq.example", "Other.example:8888"], trusted_proxies=["127.0.0.0/8"]))
    for host in ("mq.example", "MQ.example:1234", "other.example:8888"):
        acl.origins.admit(asked(host=host))
    for host in ("other.example:1", "127.0.0.1", "localhost", "evil.example", ""):
        for ip in ("10.0.0.7", "127.0.0.1", ""):
            with pytest.raises(Misdirected):
                acl.origins.admit(asked(ip=ip, host=host))


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_healthz_and_readyz_are_open_to_every_host_and_page(path: Any) -> None:
    acl = Acl(origins=Origins(hosts=["mq.example"]))
    acl.origins.admit(asked(path, host="10.0.0.1"))
    acl.origins.admit(asked(path, host="10.0.0.1", origin="http://evil.example"))


# ---- pages

OURS = {"host": "mq.example:8888"}


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"origin": "http://mq.example:8888"},
        {"origin": "HTTP://MQ.example:8888"},
        {"origin": "https://mq.example", "host": "mq.example"},
        {"origin": "https://mq.example", "host": "mq.example:443"},
        {"origin": "http://[::1]:8888", "host": "[::1]:8888"},
        {"sec_fetch_site": "same-origin"},
        {"sec_fetch_site": "none"},
        {"referer": "http://mq.example:8888/queue?a=http://evil.example/"},
        {"sec_fetch_site": "same-origin", "referer": "http://mq.example:8888/queue"},
        {"origin": "http://friend.example", "sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "cross-site", "referer": "http://friend.example/page"},
        {"referer": "http://friend.example/page"},
    ],
)
def test_our_pages_and_allowed_ones_may_ask_for_anything(headers: Any) -> None:
    acl = Acl(origins=Origins(allowed_origins=["http://friend.example"]))
    for method in ("GET", "POST", "DELETE"):
        acl.origins.admit(asked(method=method, **{**OURS, **headers}))


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": ""},
        {"origin": "http://mq.example"},
        {"origin": "http://mq.example:80"},
        {"origin": "mq.example:8888"},
        {"origin": "http://mq.example:8888.evil.example"},
        {"origin": "http://evil.example", "sec_fetch_site": "same-origin"},
        {"origin": "http://evil.example", "referer": "http://friend.example/"},
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
        {"sec_fetch_site": "cross-site", "referer": "http://mq.example:8888/"},
        {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate"},
        {"referer": "http://evil.example/"},
        {"referer": "http://evil.example?http://mq.example:8888/"},
        {"referer": "http://mq.example:8888@evil.example/"},
        {"referer": "nonsense"},
    ],
)
def test_a_page_of_another_origin_gets_403_and_is_named(headers: Any) -> None:
    acl = Acl(origins=Origins(allowed_origins=["http://friend.example"]))
    for method in ("GET", "POST"):
        with pytest.raises(Forbidden, match="allowed_origins"):
            acl.origins.admit(asked(method=method, **{**OURS, **headers}))


@pytest.mark.parametrize("headers", [{"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate"},
                                     {"referer": "http://evil.example/"}])  # fmt: skip
def test_a_link_from_elsewhere_may_lead_to_a_page_but_not_to_what_hands_out(headers: Any) -> None:
    acl = Acl()
    for page in ("/", "/?_=1", "/queue", "/q/", "/j/test", "/static/restmq.css"):
        acl.origins.admit(asked(page, **headers))
    for target in (
        "/q/test",
        "/?queue=test",
        "/?%71ueue=test",
        "/c/test",
        "/ws/test",
        "/stats/",
        "/j/test?callback=f",
    ):
        with pytest.raises(Forbidden):
            acl.origins.admit(asked(target, **headers))
    with pytest.raises(Forbidden):
        acl.origins.admit(asked("/queue", method="POST", **headers))


def test_a_page_embedded_elsewhere_as_script_is_no_visit() -> None:
    with pytest.raises(Forbidden):
        Origins().admit(asked("/j/test", sec_fetch_site="cross-site", sec_fetch_mode="no-cors"))


@pytest.mark.parametrize("query", ["callback=f", "a=1&callback=f", "c%61llback=f", "%63%61%6c%6c%62%61%63%6b=f"])
def test_callback_without_a_page_passes_only_by_a_loopback_name_and_from_no_browser(query: Any) -> None:
    acl = Acl(origins=Origins(trusted_proxies=["127.0.0.0/8"]))
    target = "/stats/?" + query
    for host in ("localhost", "localhost:8888", "LOCALHOST.", "127.0.0.1:8888", "127.9.9.9", "[::1]:8888", "[::1]"):
        acl.origins.admit(asked(target, ip="127.0.0.1", host=host))
        acl.origins.admit(asked(target, ip="10.0.0.7", host=host))
        with pytest.raises(Forbidden, match="callback"):
            acl.origins.admit(asked(target, ip="127.0.0.1", host=host, **CHROMIUM))
    for host in ("mq.example", "10.0.0.1", "localhost.evil.example", "127.0.0.1.evil.example", "[::2]", ""):
        for ip in ("10.0.0.7", ""):
            with pytest.raises(Forbidden, match="callback"):
                acl.origins.admit(asked(target, ip=ip, host=host))
        acl.origins.admit(asked(target, host=host, sec_fetch_site="same-origin"))
        acl.origins.admit(asked("/stats/?max=3", host=host))


CHROMIUM = {
    "user_agent": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/150.0 Safari/537.36",
    "accept_language": "en-US,en;q=0.9",
}
#: What others than browsers send, as their sources and documents have it.
PROGRAMS = {
    "curl": {"user_agent": "curl/8.5.0"},
    "wget": {"user_agent": "Wget/1.21.3", "accept_encoding": "identity"},
    "PowerShell 5.1": {"user_agent": "Mozilla/5.0 (Windows NT; Windows NT 10.0; de-DE) WindowsPowerShell/5.1.19041.1"},
    "PowerShell 7": {"user_agent": "Mozilla/5.0 (Windows NT 10.0; Microsoft Windows 10.0; en-US) PowerShell/7.4.1"},
    "WinHTTP": {"user_agent": "Mozilla/4.0 (compatible; Win32; WinHttp.WinHttpRequest.5)"},
    "Delphi's Indy": {"user_agent": "Mozilla/3.0 (compatible; Indy Library)"},
    "Google Apps Script": {"user_agent": "Mozilla/5.0 (compatible; Google-Apps-Script; beanserver; id: UAE)"},
    "Qt": {"user_agent": "Mozilla/5.0", "accept_language": "de-DE,en,*"},
    "Qt in English": {"user_agent": "Mozilla/5.0", "accept_language": "en-GB,*"},
    "node": {"user_agent": "node", "accept_language": "*", "sec_fetch_mode": "cors"},
    "Deno": {"user_agent": "Deno/1.44.0", "accept_language": "*"},
    "Bun": {"user_agent": "Bun/1.1.0"},
    "CFNetwork": {"user_agent": "App/1 CFNetwork/1496.0.7 Darwin/23.5.0", "accept_language": "en-US,en;q=0.9"},
    "Ruby's Mechanize": {"user_agent": "Mechanize/2.8 Ruby/3.2", "accept_language": "en-us,en;q=0.5"},
    "Python": {"user_agent": "Python-urllib/3.11"},
    "Java": {"user_agent": "Java/17.0.2"},
    "Go": {"user_agent": "Go-http-client/1.1"},
    "okhttp": {"user_agent": "okhttp/4.12.0"},
    "libwww-perl": {"user_agent": "libwww-perl/6.67"},
    "Postman": {"user_agent": "PostmanRuntime/7.37.3"},
    "nothing at all": {},
}
BROWSERS = {
    "Chromium": CHROMIUM,
    "Firefox": {"user_agent": "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
                "accept_language": "en-US,en;q=0.5"},
    "Safari": {"user_agent": "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) "
               "Version/17.4 Safari/605.1.15", "accept_language": "en-GB,en;q=0.9"},
    "Internet Explorer": {"user_agent": "Mozilla/5.0 (Windows NT 10.0; WOW64; Trident/7.0; rv:11.0) like Gecko",
                          "accept_language": "en-US"},
    "one whose page chose": {**CHROMIUM, "accept_language": "en,*"},
    "one whose page chose none": {**CHROMIUM, "accept_language": ""},
    "one with a short name": {"user_agent": "Mozilla/5.0", "accept_language": "en-US,en;q=0.9"},
}  # fmt: skip
TAKES = ("/q/test", "/q/a%2Fb", "/?queue=test", "/?%71ueue=test", "/c/test", "/sse/test,other", "/c/test?tap=1")
LOOKS = ("/", "/?max=1", "/q/", "/q", "/queue", "/j/test", "/stats/", "/stats/test", "/q/test/1", "/peek/test")


@pytest.mark.parametrize("name", BROWSERS)
@pytest.mark.parametrize("host", ["mq.example", "10.0.0.1:8888", "localhost"])
def test_a_browser_that_does_not_say_which_page_asks_takes_nothing(name: Any, host: Any) -> None:
    for target in TAKES:
        with pytest.raises(Forbidden, match="POST /q/NAME/take.*curl"):
            Origins().admit(asked(target, host=host, **BROWSERS[name]))
        Origins().admit(asked(target, host=host, referer=f"http://{host}/j/test", **BROWSERS[name]))
        Origins().admit(asked(target, host=host, sec_fetch_site="none", **BROWSERS[name]))
    for target in LOOKS:
        Origins().admit(asked(target, host=host, **BROWSERS[name]))
    Origins().admit(asked("/q/test", method="HEAD", host=host, **BROWSERS[name]))


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_is_no_browser(name: Any) -> None:
    for target in (*TAKES, *LOOKS):
        Origins().admit(asked(target, host="mq.example", **PROGRAMS[name]))
