"""Who may come in: the access sections, and which host and which browser page may ask.

Owns the rules of hosts_allow, hosts_deny, username and password, their reload, and
the checks of Host, Origin, Sec-Fetch-Site and Referer. Must not know cyclone, Redis
or queues: a request is anything with the attributes of `Request` below.
http/handler.py asks `admit` once and `check` for each section. Read api/queue.py next.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import socket
from collections.abc import Container, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

from twisted.logger import Logger

from restmq.access.guesses import Guesses
from restmq.model import ini
from restmq.model.errors import Forbidden, Misdirected, Unauthorized, WrongPassword
from restmq.model.ini import ConfigError, Entry, Section
from restmq.model.networks import Networks, ip_of, is_loopback
from restmq.model.suggest import hint
from restmq.model.urlencoded import pairs, unquote
from restmq.runtime.changes import Changes

KINDS = ("rest:producer", "rest:consumer", "comet:consumer", "websocket:consumer", "sse:consumer", "admin")
#: Whose rules hold for a section that is absent; for the others then everybody is let in.
FOLLOWS = {
    "admin": ("rest:producer", "rest:consumer"),
    "comet:consumer": ("rest:consumer",),
    "websocket:consumer": ("rest:consumer",),
    "sse:consumer": ("comet:consumer",),
}
KEYS = ("hosts_allow", "hosts_deny", "username", "password")

#: Most answers remembered of each sort; past that the memory starts anew.
REMEMBERED = 4096
LONGEST_HOST = 300  # bytes of a Host that is remembered: a name has 253 at the most (RFC 1035), and a port follows
COOKIES = 8  # named auth, that a request is judged by: a browser sends one for each path

#: Open to everybody: whoever watches over the server asks these.
_OPEN = (b"/healthz", b"/readyz")

#: What else helps against 421 while no hosts are configured.
BEHIND = ", or set xheaders = true there if a proxy on this machine sends the requests"
#: Pages a link on another site may lead to: none of them hands anything out or takes callback.
_PAGES = frozenset((b"/", b"/queue", b"/q", b"/q/", b"/openapi.json", b"/robots.txt", b"/favicon.ico"))
_PAGE_FOLDERS = (b"/static/", b"/j/")

_log = Logger()


class Fields(Protocol):
    """The header fields of a request: lower-case name to value."""

    @property
    def values(self) -> Mapping[bytes, bytes]: ...


class Request(Protocol):
    """What is asked about a request. `remote_ip` is the client's address, "" over a unix socket.

    `peer_ip`, where there is one, is the address of the connection itself: behind
    a proxy it is the proxy's, and without the attribute remote_ip stands for it.
    `shared` is set to the header lines that let a page of an allowed origin read the answer.
    `proven`, where there is one, is set to what its connection showed last that was right.
    """

    shared: tuple[tuple[bytes, bytes], ...]
    proven: bytes

    @property
    def remote_ip(self) -> str: ...
    @property
    def method(self) -> str: ...
    @property
    def raw_path(self) -> bytes: ...
    @property
    def raw_query(self) -> bytes: ...
    @property
    def fields(self) -> Fields: ...


class Rule(NamedTuple):
    """One access section: hosts_allow and hosts_deny, and `user:password` or b"" for none."""

    allow: Networks
    deny: Networks
    credentials: bytes

    def admits(self, address: str) -> bool:
        """Whether the address fits: hosts_allow first, then hosts_deny, then what hosts_allow left out."""
        if address in self.allow:
            return True
        return address not in self.deny and not self.allow

    @property
    def is_open(self) -> bool:
        """Whether it lets everybody in, but perhaps for some addresses."""
        return not self.credentials and (self.allow.all or not (self.allow or self.deny.all))


def is_section(name: str) -> bool:
    """Whether a section of this name belongs to the access rules, or was meant to."""
    return name.partition(" ")[0] in KINDS


def rules(sections: Iterable[Section]) -> dict[str, tuple[Rule, ...]]:
    """The rules of each kind that has a section. Raises ConfigError naming section, key and line."""
    found: dict[str, list[Rule]] = {}
    for section in sections:
        kind = section.name.partition(" ")[0]
        if kind not in KINDS:
            raise ConfigError(f"{section.where}: the section [{section.name}] is not known, {hint(kind, KINDS)}")
        for key, entry in section.keys.items():
            if key not in KEYS:
                raise ConfigError(f"{entry.where}: [{section.name}] {key} is not known, {hint(key, KEYS)}")
        found.setdefault(kind, []).append(
            Rule(_networks(section, "hosts_allow"), _networks(section, "hosts_deny"), _credentials(section))
        )
    return {kind: tuple(listed) for kind, listed in found.items()}


def _networks(section: Section, key: str) -> Networks:
    entry = section.keys.get(key, Entry("", ""))
    try:
        return Networks(entry.text.replace(",", " ").split())
    except ValueError as error:
        raise ConfigError(f"{entry.where}: [{section.name}] {key}: {error}") from None


def _credentials(section: Section) -> bytes:
    nothing = Entry("", section.where)
    username = section.keys.get("username", nothing)
    password = section.keys.get("password", nothing)
    if bool(username.text) != bool(password.text):
        missing = "password" if username.text else "username"
        raise ConfigError(f"{section.where}: [{section.name}] has no {missing}: they go together")
    if ":" in username.text:
        raise ConfigError(f"{username.where}: [{section.name}] username cannot have a colon in it (RFC 7617)")
    return f"{username.text}:{password.text}".encode() if username.text else b""


#: What an address must show for a section: each inner tuple is a choice of credentials, one
#: of each must come; nothing to show is (), an empty choice can be met by nobody.
_Verdict = tuple[tuple[bytes, ...], ...]


#: What a page of an allowed origin may read of an answer (the Fetch standard, section 3.3).
_SHARED = (
    (b"Vary", b"Origin"),
    # Whoever lists an origin trusts its pages with the user's password; only listed ones, never *, come here.
    (b"Access-Control-Allow-Credentials", b"true"),
    (
        b"Access-Control-Expose-Headers",
        b"ETag, Retry-After, Idempotency-Replayed, RestMQ-Waiting, RestMQ-Delayed, RestMQ-Leased",
    ),
)


class Acl:
    """The access rules as they stand now, and the answers they gave.

    `path` is the file the access sections stand in (None: there are none); `others`
    are the other sections that may stand there, when it is restmq.conf; what is neither is refused, for
    a misspelt section would let everybody in.
    `hosts`, `allowed_origins` and `trusted_proxies` are as in restmq.conf.
    `generation` rises with each reload: a stream asks again when it did.
    `guesses`, when given, counts wrong passwords and delays the next ones.
    Raises ConfigError when the file cannot be read or understood.
    """

    def __init__(
        self,
        path: Path | None = None,
        others: Container[str] | None = None,
        hosts: Iterable[str] = (),
        allowed_origins: Iterable[str] = (),
        trusted_proxies: Iterable[str] = (),
        guesses: Guesses | None = None,
    ) -> None:
        self.generation = 0
        self.guesses = guesses
        self.path = path
        self._others = others
        self._changes = Changes(lambda: () if path is None else (path,))
        self._rules: dict[str, tuple[Rule, ...]] = {}
        self._rules = self._read()
        self._verdicts: dict[tuple[str, str], _Verdict] = {}
        self._hosts = frozenset(host.lower().encode() for host in hosts)
        self._origins = frozenset(origin.lower().encode() for origin in allowed_origins)
        self._proxies = Networks(trusted_proxies)
        self._known_hosts: dict[bytes, bool] = {}
        self._bare_peers: dict[str, bool] = {}
        name = socket.gethostname().lower()
        short = name.partition(".")[0]
        self._machine = frozenset(n.encode() for n in ("localhost", name, short, short + ".local") if n)

    # ---- the access sections

    def check(self, section: str, request: Request) -> bool:
        """Let the request into a section, or raise Unauthorized, Forbidden or TooManyGuesses.

        Returns True when the address alone decided: then it holds for every request
        of the connection until `generation` changes. Credentials come as Basic
        (RFC 7617), with a WebSocket's handshake also as the cookie auth=user:password.
        """
        address = request.remote_ip
        verdict = self._verdicts.get((section, address))
        if verdict is None:
            verdict = self._judge(section, address)
            if len(self._verdicts) >= REMEMBERED:
                self._verdicts.clear()
            self._verdicts[section, address] = verdict
        if not verdict:
            return True
        if not all(verdict):
            raise Forbidden(f"{address or 'a unix socket'} is not let into {self._named(section)} by its access rules")
        self._show(section, verdict, request)
        return False

    def _show(self, section: str, verdict: _Verdict, request: Request) -> None:
        """Compare what the request offers with what is asked for, in constant time."""
        fields = request.fields.values
        basic = _basic(fields.get(b"authorization", b""))
        offered = [] if basic is None else [basic]
        # A cookie comes along from any page, so it counts only where a browser can send nothing else.
        if section == "websocket:consumer" or fields.get(b"upgrade", b"").lower() == b"websocket":
            offered = list(dict.fromkeys([*offered, *_cookies(fields.get(b"cookie", b""))]))
        # What was right on this connection before is no guess, though it may be wrong by now. So no guess of somebody
        # else with the same address stops a connection that is there.
        address, proven = request.remote_ip, getattr(request, "proven", b"")
        for one in offered:
            if self.guesses is not None and one != proven:
                self.guesses.look(address, one.partition(b":")[0])
        for one in offered:
            if _meets(one, verdict):
                if one is not basic and b"origin" not in fields:
                    raise Forbidden("a WebSocket opened with the auth cookie must say its Origin")
                request.proven = one
                return
        wrong = [one for one in offered if not self._is_known(one)]  # what opens another section is no guess either
        for one in wrong:
            if self.guesses is not None and one != proven:
                request.proven = b""
                self.guesses.wrong(address, one.partition(b":")[0])
        asks = f"{self._named(section)} asks for a user name and password"
        if wrong:
            raise WrongPassword(asks + ", and these are not right")
        raise Unauthorized(asks + (", and these are for another section" if offered else ""))

    def _is_known(self, offered: bytes) -> bool:
        """Whether some section takes it."""
        rights = [rule.credentials for listed in self._rules.values() for rule in listed if rule.credentials]
        return _meets(offered, (tuple(rights),))

    def _judge(self, section: str, address: str) -> _Verdict:
        if section not in KINDS:
            raise ValueError(f"{section} is no access section")
        verdict: _Verdict = ()
        for held in self._holding(section):
            fitting = [rule for rule in self._rules[held] if rule.admits(address)]
            if all(rule.credentials for rule in fitting):
                verdict += (tuple(rule.credentials for rule in fitting),)
        return verdict

    def _holding(self, section: str) -> tuple[str, ...]:
        """The sections whose rules hold for this one: itself, or those that it follows where it is absent."""
        if section in self._rules:
            return (section,)
        return tuple(held for followed in FOLLOWS.get(section, ()) for held in self._holding(followed))

    def _named(self, section: str) -> str:
        """A section as a refusal names it, with those that hold in its place."""
        held = " and ".join(f"[{one}]" for one in self._holding(section) if one != section)
        return f"[{section}]" + (f" (where {held} holds)" if held else "")

    def opened(self) -> tuple[list[str], list[str]]:
        """The sections that let everybody in without a password, and the others."""
        closed = [
            kind
            for kind in KINDS
            if any(not any(rule.is_open for rule in self._rules[held]) for held in self._holding(kind))
        ]
        return [kind for kind in KINDS if kind not in closed], closed

    @property
    def has_passwords(self) -> bool:
        """Whether a section asks for one."""
        return any(rule.credentials for listed in self._rules.values() for rule in listed)

    # ---- the file

    def reload_if_changed(self) -> None:
        """Read the file again when it has changed and is at rest; call it about once a second.

        One that an editor has emptied, and not written yet, would have no rules, and let everybody in.
        A file that cannot be read or understood changes nothing and leaves a line in the log.
        """
        if not self._changes.found():
            return
        try:
            fresh = self._read()
        except ConfigError as error:
            _log.error("the access rules stay as they were: {error}", error=error)
            return
        if fresh == self._rules:
            return
        self._rules = fresh
        self._verdicts.clear()
        self.generation += 1
        _log.info("the access rules were read again from {path}", path=self.path)

    def _read(self) -> dict[str, tuple[Rule, ...]]:
        if self.path is None:
            return {}
        sections = ini.read(self.path)
        if not sections and self._rules:  # a full disk, and nobody's wish: there would be no rules at all
            raise ConfigError(f"{self.path} is empty")
        return rules(s for s in sections if is_section(s.name) or s.name not in (self._others or ()))

    # ---- hosts and browser pages

    def admit(self, request: Request) -> None:
        """Judge Host, and where the request comes from a page: raises Misdirected or Forbidden.

        Cheap for what sends none of Origin, Sec-Fetch-Site and Referer, as curl.
        What a page of another origin may read gets the header lines that say so.
        /healthz and /readyz are open.
        """
        fields = request.fields.values
        host = fields.get(b"host", b"")
        known = self._known_hosts.get(host)
        if known is None:
            known = self._knows(host)
            if len(self._known_hosts) >= REMEMBERED:
                self._known_hosts.clear()
            if len(host) <= LONGEST_HOST:
                self._known_hosts[host] = known
        if not known and self._refuses(request):
            raise Misdirected(
                f"this server is not known as {host[:300].decode('latin-1')!a}: if it should be, put the name into "
                f"hosts = in [server] of restmq.conf{'' if self._hosts else BEHIND}"
            )
        if b"origin" in fields or b"sec-fetch-site" in fields or b"referer" in fields:
            self._judge_page(host, fields, request)
        elif request.raw_query or b"accept-language" in fields:
            _judge_unnamed(host, fields, request)

    def _knows(self, host: bytes) -> bool:
        """Against DNS rebinding: whether a page could not have pointed a name of its own at this machine."""
        host = host.lower()
        name = _split(host)[0]
        if self._hosts:
            return host in self._hosts or name in self._hosts
        # Browsers always name a host; what names none is an old HTTP/1.0 client.
        return not host or name in self._machine or ip_of(name.strip(b"[]").decode("latin-1")) is not None

    def _refuses(self, request: Request) -> bool:
        """Whether a name that is not known matters: with hosts given, or over loopback and from no proxy."""
        if request.raw_path in _OPEN:
            return False
        if request.method == "OPTIONS" and not request.fields.values.get(b"host"):
            return False  # a proxy's check, as HAProxy's; it hands nothing out
        if self._hosts:
            return True
        peer: str = getattr(request, "peer_ip", request.remote_ip)
        refused = self._bare_peers.get(peer)
        if refused is None:
            refused = is_loopback(peer) and peer not in self._proxies
            if len(self._bare_peers) >= REMEMBERED:
                self._bare_peers.clear()
            self._bare_peers[peer] = refused
        return refused

    def _judge_page(self, host: bytes, fields: Mapping[bytes, bytes], request: Request) -> None:
        """Whether the page that asks is ours or allowed (the Fetch standard's Origin and Sec-Fetch-Site)."""
        origin = fields.get(b"origin")
        site = fields.get(b"sec-fetch-site")
        source = origin if origin is not None else _origin_of(fields.get(b"referer", b""))
        if source and source.lower() in self._origins:
            if origin is not None:
                request.shared = ((b"Access-Control-Allow-Origin", origin), *_SHARED)
            return
        if origin is not None:
            ours = _same(origin, host)
        elif site is not None:
            ours = site in (b"same-origin", b"none")
        else:
            ours = _same(source, host)
        if ours or request.raw_path in _OPEN:
            return
        if origin is None and _is_page_visit(request, fields):
            return
        page = source[:300].decode("latin-1") or "another site"
        raise Forbidden(
            f"a page of {page!a} asks, which is another origin than this server: "
            "put it into allowed_origins = in restmq.conf if it should"
        )


def _judge_unnamed(host: bytes, fields: Mapping[bytes, bytes], request: Request) -> None:
    """Judge a request that does not say which page asks: browsers say nothing over plain http, if a page wants so.

    They send Sec-Fetch-Site to localhost, to loopback addresses and over https only (Secure Contexts, section
    3.1), and a page keeps Referer back with Referrer-Policy: no-referrer.
    """
    browser = _is_browser(fields)
    if request.raw_query and _has(b"callback", request.raw_query) and (browser or not _is_loopback_name(host)):
        raise Forbidden(
            "callback is for pages, and this request does not say which page asks (no Origin, Sec-Fetch-Site or "
            "Referer): it passes only by http://localhost or a loopback address. Programs need no callback"
        )
    if browser and _hands_out(request):
        raise Forbidden(
            "a browser asks for elements and does not say for which page (no Origin, Sec-Fetch-Site or Referer): "
            "any page could take them so. Look at /j/NAME, which takes nothing; take with POST /q/NAME/take, "
            "or with curl; by https or http://localhost a browser says where its requests come from"
        )


def _is_browser(fields: Mapping[bytes, bytes]) -> bool:
    """Whether a browser asks: each names itself Mozilla/ and sends Accept-Language, which a page cannot prevent.

    PowerShell's Invoke-WebRequest, Delphi's Indy and WinHTTP have such a name, too, and send no Accept-Language.
    Qt's QNetworkAccessManager sends it with a * at the end, and has a name that no browser has.
    """
    agent = fields.get(b"user-agent", b"")
    if not agent.startswith(b"Mozilla/") or b"accept-language" not in fields:
        return False
    return not (agent == b"Mozilla/5.0" and fields[b"accept-language"].endswith(b",*"))


def _is_loopback_name(host: bytes) -> bool:
    """Whether Host is localhost or a loopback address: browsers send Sec-Fetch-Site there, also over plain http."""
    name = _split(host.lower())[0]
    return name == b"localhost" or is_loopback(name.strip(b"[]").decode("latin-1"))


def _hands_out(request: Request) -> bool:
    """Whether a GET takes elements, or listens to them. A WebSocket of a browser always says its Origin."""
    path = request.raw_path
    if request.method != "GET":
        return False
    if path == b"/":
        return _has(b"queue", request.raw_query)
    if path.startswith((b"/c/", b"/sse/")):
        return True
    return path.startswith(b"/q/") and len(path) > 3 and path.count(b"/") == 2


def _split(authority: bytes) -> tuple[bytes, bytes]:
    """Host and port of `host[:port]`; the brackets of an IPv6 address stay, a root's dot goes."""
    name, colon, port = authority.rpartition(b":")
    if not colon or not port.isdigit():
        name, port = authority.rstrip(b":"), b""
    return name.rstrip(b"."), port


def _origin_of(referer: bytes) -> bytes:
    """The origin of a URL: scheme and authority, b"" when it is none."""
    scheme, mark, rest = referer.partition(b"://")
    if not mark:
        return b""
    authority = rest.replace(b"?", b"/").replace(b"#", b"/").partition(b"/")[0]
    return scheme + mark + authority.rpartition(b"@")[2]


def _same(origin: bytes, host: bytes) -> bool:
    """Whether an origin's host and port equal Host, a scheme's own port being as good as none."""
    scheme, mark, authority = origin.lower().partition(b"://")
    default = {b"http": b"80", b"https": b"443"}.get(scheme)
    if not mark or default is None or not authority:
        return False
    ours, theirs = _split(host.lower()), _split(authority)
    return (ours[0], ours[1] or default) == (theirs[0], theirs[1] or default)


def _has(word: bytes, query: bytes) -> bool:
    """Whether a parameter of the query has this name, however it is escaped."""
    if word not in query and not (b"%" in query and word in unquote(query)):
        return False  # which is cheaper to see
    return any(name == word for name, _ in pairs(query))


def _is_page_visit(request: Request, fields: Mapping[bytes, bytes]) -> bool:
    """Whether this is somebody following a link from elsewhere to one of our pages."""
    path = request.raw_path
    return (
        request.method in ("GET", "HEAD")
        and fields.get(b"sec-fetch-mode", b"navigate") == b"navigate"
        and (path in _PAGES or path.startswith(_PAGE_FOLDERS))
        and not _has(b"callback", request.raw_query)
        and not _hands_out(request)
    )


def _meets(offered: bytes, verdict: _Verdict) -> bool:
    # Every choice is compared, found or not: how long it takes tells nothing.
    met = True
    for choice in verdict:
        found = False
        for right in choice:
            found |= hmac.compare_digest(offered, right)
        met &= found
    return met


def _basic(header: bytes) -> bytes | None:
    """The `user:password` of an Authorization header (RFC 7617), None when it is no such thing."""
    scheme, _space, token = header.partition(b" ")
    if scheme.lower() != b"basic":
        return None
    try:
        return base64.b64decode(token.strip(), validate=True)
    except binascii.Error:
        return None


def _cookies(header: bytes) -> list[bytes]:
    """The values of the first eight cookies named auth, each as it stands and percent-decoded."""
    found: list[bytes] = []
    for pair in header.split(b";"):
        name, _equals, value = pair.strip().partition(b"=")
        if name == b"auth":
            value = value.strip(b'"')
            found += [value, unquote(value)]
        if len(found) >= 2 * COOKIES:
            break
    return found
