"""The access sections: which client may do what.

Owns the rules of hosts_allow, hosts_deny, username and password, and reading them again. Knows neither cyclone, Redis
nor queues: a request is anything with the attributes of access/request.py. http/handler.py calls `check` for each
section. Read api/queue.py next.
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
#: The sections whose rules hold for an absent section. Any other absent section lets every client in.
FOLLOWS = {
    "admin": ("rest:producer", "rest:consumer"),
    "comet:consumer": ("rest:consumer",),
    "websocket:consumer": ("rest:consumer",),
    "sse:consumer": ("comet:consumer",),
}
KEYS = ("hosts_allow", "hosts_deny", "username", "password")

#: Most answers that are remembered. Beyond them, all are forgotten.
REMEMBERED = 4096
COOKIES = 8  # most cookies named auth that are compared: a browser sends one for each path

_log = Logger()


class Rule(NamedTuple):
    """One access section: hosts_allow, hosts_deny, and `user:password`, or b"" if it has none."""

    allow: Networks
    deny: Networks
    credentials: bytes

    def admits(self, address: str) -> bool:
        """Whether the rule allows the address. hosts_allow counts first, then hosts_deny.

        If hosts_allow is empty, all others are allowed.
        """
        if address in self.allow:
            return True
        return address not in self.deny and not self.allow

    @property
    def is_open(self) -> bool:
        """Whether the rule lets every client in without a password, perhaps with the exception of some addresses."""
        return not self.credentials and (self.allow.all or not (self.allow or self.deny.all))


def is_section(name: str) -> bool:
    """Whether a section of this name is an access section, or was meant to be one."""
    return name.partition(" ")[0] in KINDS


def rules(sections: Iterable[Section]) -> dict[str, tuple[Rule, ...]]:
    """The rules of each kind that has a section. Raises ConfigError, which names section, key and line."""
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
        raise ConfigError(f"{section.where}: [{section.name}] has no {missing}: username and password go together")
    if ":" in username.text:
        raise ConfigError(f"{username.where}: [{section.name}] username cannot have a colon in it (RFC 7617)")
    return f"{username.text}:{password.text}".encode() if username.text else b""


#: The credentials that an address must have for a section. Each inner tuple is a choice: the request must have one of
#: each. () requires nothing. An empty choice refuses every request.
_Verdict = tuple[tuple[bytes, ...], ...]


class Acl:
    """The access rules as they are now, and the answers that they gave.

    - `path` is the file with the access sections, or None if there are none.
    - `others` are the other sections that may stand in the file, if it is restmq.conf. Any other section is refused,
      because a
    misspelt access section would let every client in.
    - `origins` judges the host and the page of a request.
    - `guesses` counts wrong passwords and delays the next ones.
    - `generation` rises each time the rules change. A stream then asks again.

    Raises ConfigError for a file that cannot be read or understood.
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

        Returns True if the address alone decided. Then the answer holds for every request of the connection until
        `generation` changes. Credentials come as Basic (RFC 7617). In a WebSocket's handshake they may also come as
        the cookie auth=user:password.
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
        """Compare the request's credentials with those that the section requires, in constant time."""
        fields = request.fields.values
        basic = _basic(fields.get(b"authorization", b""))
        offered = [] if basic is None else [basic]
        # A browser sends a cookie for any page. So it counts only in a handshake, where a browser can send nothing
        # else.
        if section == "websocket:consumer" or fields.get(b"upgrade", b"").lower() == b"websocket":
            offered = list(dict.fromkeys([*offered, *_cookies(fields.get(b"cookie", b""))]))
        # Credentials that were right on this connection before are not guesses, though they may be wrong now. So
        # guesses of another client at the same address do not stop an existing connection.
        address, proven = request.remote_ip, getattr(request, "proven", b"")
        for one in offered:
            if self.guesses is not None and one != proven:
                self.guesses.check(address, one.partition(b":")[0])
        for one in offered:
            if _meets(one, verdict):
                if one is not basic and b"origin" not in fields:
                    raise Forbidden("a WebSocket that is opened with the auth cookie must send its Origin")
                request.proven = one
                return
        wrong = [
            one for one in offered if not self._is_known(one)
        ]  # the password of another section is not a guess either
        for one in wrong:
            if self.guesses is not None and one != proven:
                request.proven = b""
                self.guesses.count_wrong(address, one.partition(b":")[0])
        required = f"{self._named(section)} requires a user name and password"
        if wrong:
            raise WrongPassword(required + ", and these are wrong")
        raise Unauthorized(required + (", and these are for another section" if offered else ""))

    def _is_known(self, offered: bytes) -> bool:
        """Whether some section accepts these credentials."""
        rights = [rule.credentials for listed in self._rules.values() for rule in listed if rule.credentials]
        return _meets(offered, (tuple(rights),))

    def _judge(self, section: str, address: str) -> _Verdict:
        if section not in KINDS:
            raise ValueError(f"{section} is not an access section")
        verdict: _Verdict = ()
        for held in self._holding(section):
            fitting = [rule for rule in self._rules[held] if rule.admits(address)]
            if all(rule.credentials for rule in fitting):
                verdict += (tuple(rule.credentials for rule in fitting),)
        return verdict

    def _holding(self, section: str) -> tuple[str, ...]:
        """The sections whose rules hold for this one: the section itself, or those that it follows if it is absent."""
        if section in self._rules:
            return (section,)
        return tuple(held for followed in FOLLOWS.get(section, ()) for held in self._holding(followed))

    def _named(self, section: str) -> str:
        """A section as a refusal names it, with the sections that hold in its place."""
        held = " and ".join(f"[{one}]" for one in self._holding(section) if one != section)
        return f"[{section}]" + (f" (where {held} holds)" if held else "")

    def open_and_closed(self) -> tuple[list[str], list[str]]:
        """The sections that let every client in without a password, and the other sections."""
        closed = [
            kind
            for kind in KINDS
            if any(not any(rule.is_open for rule in self._rules[held]) for held in self._holding(kind))
        ]
        return [kind for kind in KINDS if kind not in closed], closed

    @property
    def has_passwords(self) -> bool:
        """Whether a section requires a password."""
        return any(rule.credentials for listed in self._rules.values() for rule in listed)

    # ---- the file

    def reload_if_changed(self) -> None:
        """Read the file again when it has changed and does not change any more. Call this about once a second.

        An editor may have emptied the file and not written it yet: then it would have no rules, and let every client
        in. A file that cannot be read or understood changes nothing, and an error is logged.
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
        if not sections and self._rules:  # a full disk may empty the file; then there would be no rules
            raise ConfigError(f"{self.path} is empty")
        return rules(s for s in sections if is_section(s.name) or s.name not in (self._others or ()))


def _meets(offered: bytes, verdict: _Verdict) -> bool:
    # Every choice is compared, even after a match, so that the time reveals nothing.
    met = True
    for choice in verdict:
        found = False
        for right in choice:
            found |= hmac.compare_digest(offered, right)
        met &= found
    return met


def _basic(header: bytes) -> bytes | None:
    """The `user:password` of an Authorization header (RFC 7617), or None if it has none."""
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
