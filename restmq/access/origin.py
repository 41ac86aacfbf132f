"""Origins: which host a request may name, and which browser page may ask.

Owns the checks of Host, Origin, Sec-Fetch-Site and Referer. Knows no rule, no password and no cyclone. http/handler.py
calls `admit` once for each request. Read access/acl.py next.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Mapping

from restmq.access.request import Request
from restmq.model.errors import Forbidden, Misdirected
from restmq.model.networks import Networks, ip_of, is_loopback
from restmq.model.urlencoded import pairs, unquote

#: Most answers of each kind that are remembered. Beyond them, all are forgotten.
REMEMBERED = 4096
LONGEST_HOST = 300  # most bytes of a Host that is remembered: a name has at most 253 (RFC 1035), and a port follows

#: Paths that are open to every client, because programs that monitor the server ask for them.
_OPEN = (b"/healthz", b"/readyz")

#: The other remedy for 421 while no hosts are configured.
BEHIND = ", or set xheaders = true there if a proxy on this machine sends the requests"
#: Pages to which a link on another site may lead. None of them hands out elements or takes callback.
_PAGES = frozenset((b"/", b"/queue", b"/q", b"/q/", b"/openapi.json", b"/robots.txt", b"/favicon.ico"))
_PAGE_FOLDERS = (b"/static/", b"/j/")
#: Header lines that let a page of an allowed origin read the answer (the Fetch standard, section 3.3).
_SHARED = (
    (b"Vary", b"Origin"),
    # An operator that lists an origin trusts its pages with the user's password. Only listed origins, never *, get
    # here.
    (b"Access-Control-Allow-Credentials", b"true"),
    (
        b"Access-Control-Expose-Headers",
        b"ETag, Retry-After, Idempotency-Replayed, RestMQ-Waiting, RestMQ-Delayed, RestMQ-Leased",
    ),
)


class Origins:
    """Judges the host and the page of each request. The arguments are as in restmq.conf."""

    def __init__(
        self,
        hosts: Iterable[str] = (),
        allowed_origins: Iterable[str] = (),
        trusted_proxies: Iterable[str] = (),
    ) -> None:
        self._hosts = frozenset(host.lower().encode() for host in hosts)
        self._origins = frozenset(origin.lower().encode() for origin in allowed_origins)
        self._proxies = Networks(trusted_proxies)
        self._known_hosts: dict[bytes, bool] = {}
        self._bare_peers: dict[str, bool] = {}
        name = socket.gethostname().lower()
        short = name.partition(".")[0]
        self._machine = frozenset(n.encode() for n in ("localhost", name, short, short + ".local") if n)

    def admit(self, request: Request) -> None:
        """Judge Host, and the page if a page asks. Raises Misdirected or Forbidden.

        The check is cheap for a client that sends none of Origin, Sec-Fetch-Site and Referer, as curl. A request of a
        page of an allowed origin gets the header lines that let the page read the answer. /healthz and /readyz are
        open.
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
                f"this server is not known as {host[:300].decode('latin-1')!a}: if it should be, add the name to "
                f"hosts = in [server] of restmq.conf{'' if self._hosts else BEHIND}"
            )
        if b"origin" in fields or b"sec-fetch-site" in fields or b"referer" in fields:
            self._judge_page(host, fields, request)
        elif request.raw_query or b"accept-language" in fields:
            _judge_unnamed(host, fields, request)

    def _knows(self, host: bytes) -> bool:
        """Whether Host is a name of this server.

        This prevents DNS rebinding: a page cannot point such a name at this machine.
        """
        host = host.lower()
        name = _split(host)[0]
        if self._hosts:
            return host in self._hosts or name in self._hosts
        # Browsers always send a host. A client without one is an old HTTP/1.0 client.
        return not host or name in self._machine or ip_of(name.strip(b"[]").decode("latin-1")) is not None

    def _refuses(self, request: Request) -> bool:
        """Whether an unknown name is refused: if hosts are configured, or over loopback without a proxy."""
        if request.raw_path in _OPEN:
            return False
        if request.method == "OPTIONS" and not request.fields.values.get(b"host"):
            return False  # a health check of a proxy such as HAProxy, which hands nothing out
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
        """Judge a page by its origin (the Fetch standard's Origin and Sec-Fetch-Site). Raises Forbidden."""
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
            "add it to allowed_origins = in restmq.conf if it may ask"
        )


def _judge_unnamed(host: bytes, fields: Mapping[bytes, bytes], request: Request) -> None:
    """Judge a request that does not say which page asks. A page can make a browser send no origin over plain http.

    Browsers send Sec-Fetch-Site only to localhost, to loopback addresses and over https (Secure Contexts, section
    3.1), and a page can suppress Referer with Referrer-Policy: no-referrer.
    """
    browser = _is_browser(fields)
    if request.raw_query and _has(b"callback", request.raw_query) and (browser or not _is_loopback_name(host)):
        raise Forbidden(
            "callback is for pages, and this request does not say which page asks (no Origin, Sec-Fetch-Site or "
            "Referer): it is allowed only by http://localhost or a loopback address. Programs need no callback"
        )
    if browser and _hands_out(request):
        raise Forbidden(
            "a browser asks for elements and does not say for which page (no Origin, Sec-Fetch-Site or Referer): "
            "any page could take them in this way. Look at /j/NAME, which takes nothing; take with POST /q/NAME/take, "
            "or with curl; over https or http://localhost a browser says which page asks"
        )


def _is_browser(fields: Mapping[bytes, bytes]) -> bool:
    """Whether a browser asks: browsers call themselves Mozilla/ and send Accept-Language, which a page cannot prevent.

    PowerShell's Invoke-WebRequest, Delphi's Indy and WinHTTP have such a name too, but send no Accept-Language. Qt's
    QNetworkAccessManager sends it with a * at the end, and has a name that no browser has.
    """
    agent = fields.get(b"user-agent", b"")
    if not agent.startswith(b"Mozilla/") or b"accept-language" not in fields:
        return False
    return not (agent == b"Mozilla/5.0" and fields[b"accept-language"].endswith(b",*"))


def _is_loopback_name(host: bytes) -> bool:
    """Whether Host is localhost or a loopback address. Browsers send Sec-Fetch-Site there, even over plain http."""
    name = _split(host.lower())[0]
    return name == b"localhost" or is_loopback(name.strip(b"[]").decode("latin-1"))


def _hands_out(request: Request) -> bool:
    """Whether a GET takes elements, or listens to them. A browser's WebSocket always sends its Origin."""
    path = request.raw_path
    if request.method != "GET":
        return False
    if path == b"/":
        return _has(b"queue", request.raw_query)
    if path.startswith((b"/c/", b"/sse/")):
        return True
    return path.startswith(b"/q/") and len(path) > 3 and path.count(b"/") == 2


def _split(authority: bytes) -> tuple[bytes, bytes]:
    """Host and port of `host[:port]`. The brackets of an IPv6 address stay, the dot of the root is removed."""
    name, colon, port = authority.rpartition(b":")
    if not colon or not port.isdigit():
        name, port = authority.rstrip(b":"), b""
    return name.rstrip(b"."), port


def _origin_of(referer: bytes) -> bytes:
    """The origin of a URL: scheme and authority, or b"" if the text is not a URL."""
    scheme, mark, rest = referer.partition(b"://")
    if not mark:
        return b""
    authority = rest.replace(b"?", b"/").replace(b"#", b"/").partition(b"/")[0]
    return scheme + mark + authority.rpartition(b"@")[2]


def _same(origin: bytes, host: bytes) -> bool:
    """Whether an origin's host and port equal Host. A scheme's own port counts as no port."""
    scheme, mark, authority = origin.lower().partition(b"://")
    default = {b"http": b"80", b"https": b"443"}.get(scheme)
    if not mark or default is None or not authority:
        return False
    ours, theirs = _split(host.lower()), _split(authority)
    return (ours[0], ours[1] or default) == (theirs[0], theirs[1] or default)


def _has(word: bytes, query: bytes) -> bool:
    """Whether the query has a parameter of this name, however it is escaped."""
    if word not in query and not (b"%" in query and word in unquote(query)):
        return False  # this check is cheaper
    return any(name == word for name, _ in pairs(query))


def _is_page_visit(request: Request, fields: Mapping[bytes, bytes]) -> bool:
    """Whether a user follows a link from another site to one of our pages."""
    path = request.raw_path
    return (
        request.method in ("GET", "HEAD")
        and fields.get(b"sec-fetch-mode", b"navigate") == b"navigate"
        and (path in _PAGES or path.startswith(_PAGE_FOLDERS))
        and not _has(b"callback", request.raw_query)
        and not _hands_out(request)
    )
