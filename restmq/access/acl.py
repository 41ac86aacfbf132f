"""The access sections: which client may do what.

Owns the rules of hosts_allow, hosts_deny, username and password, and their reload. Must not know cyclone, Redis or
queues: a request is anything with the attributes of access/request.py. http/handler.py asks `check` for each section.
Read api/queue.py next.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Container, Iterable
from pathlib import Path
from typing import NamedTuple

from twisted.logger import Logger

from restmq.access.guesses import Guesses
from restmq.access.origin import Origins
from restmq.access.request import Request
from restmq.model import ini
from restmq.model.errors import Forbidden, Unauthorized, WrongPassword
from restmq.model.ini import ConfigError, Entry, Section
from restmq.model.networks import Networks
from restmq.model.suggest import hint
from restmq.model.urlencoded import unquote
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
COOKIES = 8  # named auth, that a request is judged by: a browser sends one for each path

_log = Logger()


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


class Acl:
    """The access rules as they stand now, and the answers they gave.

    `path` is the file the access sections stand in (None: there are none); `others`
    are the other sections that may stand there, when it is restmq.conf; what is neither is refused, for
    a misspelt section would let everybody in.
    `origins` judges the host and the page of a request.
    `generation` rises with each reload: a stream asks again when it did.
    `guesses`, when given, counts wrong passwords and delays the next ones.
    Raises ConfigError when the file cannot be read or understood.
    """

    def __init__(
        self,
        path: Path | None = None,
        others: Container[str] | None = None,
        origins: Origins | None = None,
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
        self.origins = origins or Origins()

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
