"""restmq.conf, read into one frozen object, and nothing unknown let through.

Owns every setting: its section, its key, its default, what it may be. Must not know
what the settings are used for. Unknown sections and keys are errors that name the
line and the nearest known name; what the first RestMQ had and nobody needs any more
is accepted and told in `Config.notes`. Read restmq.conf beside it, then tap.py.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from restmq.access import acl
from restmq.access.acl import Acl
from restmq.access.guesses import Guesses
from restmq.access.origin import Origins
from restmq.model import ini, suggest, units
from restmq.model.ini import ConfigError, Entry, Section
from restmq.model.networks import Networks
from restmq.model.settings import DEFAULTS, SETTINGS

__all__ = ["Config", "ConfigError", "access", "load"]

_KIB, _MIB = 1 << 10, 1 << 20
#: How many may have connected and wait to be let in, while the instance is busy or starts. Twisted's 50 are soon there
#: when a thousand live consumers come back at once; the kernel takes less where net.core.somaxconn is less.
BACKLOG = 4096
_LOOPBACK = ("127.0.0.0/8", "::1/128")


def _default_data() -> Path:
    """/var/lib/restmq for root, else restmq in the user's data directory (XDG Base Directory)."""
    if os.geteuid() == 0:
        return Path("/var/lib/restmq")
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "restmq"


@dataclass(frozen=True)
class Config:
    """All of restmq.conf, checked. Times are seconds, sizes are bytes. Each is explained in restmq.conf."""

    # [server]
    listen: str = "127.0.0.1"
    port: int = 8888
    data: Path = field(default_factory=_default_data)
    drain: float = 10.0
    grace: float = 3.0
    silence: float = 3.0
    get_consumes: bool = True
    access_log: bool | Path = False
    acl_file: Path | None = None
    hosts: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()
    xheaders: bool = False
    xheader: str = "X-Real-IP"
    #: Networks in CIDR; loopback when only xheaders is set.
    trusted_proxies: tuple[str, ...] = ()

    # [redis]: "auto", "embedded", "HOST:PORT" or "unix:PATH"
    redis: str = "auto"
    redis_db: int = 0
    redis_username: str = ""
    redis_password: str = field(default="", repr=False)
    deadline: float = 5.0
    appendfsync: str = "everysec"

    # [limits]
    max_value: int = _MIB
    max_body: int = 16 * _MIB
    max_bodies: int = 64 * _MIB
    max_answers: int = 64 * _MIB
    head_timeout: float = 30.0
    body_timeout: float = 60.0
    idle_timeout: float = 75.0

    # [live]
    max_waiting: int = _MIB
    stall: float = 60.0
    heartbeat: float = 15.0
    per_client: int = 1000

    # [queues]
    idempotency: float = 600.0
    #: What holds for queues that were not told otherwise, by the names of settings.SETTINGS, as the functions read it.
    queues: Mapping[str, int | str] = field(default_factory=lambda: dict(DEFAULTS))

    # [frontend]: None is what comes with RestMQ
    static_path: Path | None = None
    template_path: Path | None = None

    #: The file all this was read from, if any.
    source: Path | None = None
    #: The file whose access sections hold: acl_file, else the source.
    acl: Path | None = None
    #: Sentences for the log: settings that do nothing any more.
    notes: tuple[str, ...] = ()

    @property
    def max_form(self) -> int:
        """The largest form, in bytes: a value may be escaped threefold."""
        return 3 * self.max_value + 64 * _KIB

    @property
    def endpoint(self) -> str:
        """Where to listen, as a Twisted endpoint description.

        One that was given as such stays as it is, but that a unix socket gets our backlog when it names none.
        """
        if self.listen.startswith("unix:") and ":backlog=" not in self.listen:
            return f"{self.listen}:backlog={BACKLOG}"
        if _ENDPOINT.match(self.listen):
            return self.listen
        interface = self.listen.replace(":", "\\:")
        return f"tcp:{self.port}:backlog={BACKLOG}:interface={interface}"


# ---- what a value may be


def _text(text: str, _base: Path) -> str:
    return text


def _path(text: str, base: Path) -> Path:
    return base / Path(text).expanduser()


def _words(text: str, _base: Path) -> tuple[str, ...]:
    return tuple(text.replace(",", " ").split())


def _yes_no(text: str, _base: Path) -> bool:
    words = {
        "yes": True,
        "true": True,
        "on": True,
        "1": True,
        "no": False,
        "false": False,
        "off": False,
        "0": False,
    }
    if text.lower() not in words:
        raise ValueError("it takes yes or no")
    return words[text.lower()]


def _yes_no_or_path(text: str, base: Path) -> bool | Path:
    if "/" in text:
        return _path(text, base)
    try:
        return _yes_no(text, base)
    except ValueError:
        raise ValueError("it takes yes, no, or the path of a file, with a / in it") from None


def _one_of(*known: str) -> Callable[[str, Path], str]:
    def parse(text: str, _base: Path) -> str:
        for word in known:
            if text.lower() == word.lower():
                return word
        raise ValueError("it takes " + " or ".join(known))

    return parse


def _seconds(low: float, high: float) -> Callable[[str, Path], float]:
    def parse(text: str, _base: Path) -> float:
        value = units.milliseconds(text) / 1000
        if not low <= value <= high:
            raise ValueError(f"it takes {low:g} to {high:g} seconds")
        return value

    return parse


def _plain(parse: Callable[[str], Any]) -> Callable[[str, Path], Any]:
    """A value that names no file."""
    return lambda text, _base: parse(text)


def _size(low: int, high: int) -> Callable[[str, Path], int]:
    return _plain(units.size_within(low, high))


def _number(low: int, high: int) -> Callable[[str, Path], int]:
    return _plain(units.number_within(low, high))


#: The kinds of Twisted's endpoint descriptions that `listen` may be.
_ENDPOINT = re.compile(r"(unix|tcp|tcp6|ssl|tls|systemd):.")


def _listen(text: str, base: Path) -> str:
    """An address, or an endpoint: unix:PATH, tcp:8888:interface=..., systemd:domain=INET:index=0."""
    text = text.strip("[]")
    if text.startswith("unix:") and len(text) > 5 and "=" not in text[5:].partition(":")[0]:
        return f"unix:{base / text[5:]}"
    if ":" in text and not _ENDPOINT.match(text):
        try:
            ipaddress.IPv6Address(text)
        except ValueError:
            raise ValueError(
                "it takes an address, unix:PATH or a Twisted endpoint; the port of an address stands in port"
            ) from None
    return text


def _redis(text: str, base: Path) -> str:
    """auto, embedded, HOST:PORT or unix:PATH, made absolute."""
    if text.lower() in ("auto", "embedded"):
        return text.lower()
    if text.startswith("unix:") and len(text) > 5:
        return f"unix:{base / text[5:]}"
    host, _colon, port = text.rpartition(":")
    if "://" in text or "@" in text or not host or not port.isdigit() or not 1 <= int(port) <= 65535:
        # The text is not repeated: it may be a URL with a password.
        raise ValueError(
            "it takes auto, embedded, HOST:PORT or unix:PATH; user name, password and database "
            "stand in username, password and dbid of [redis]"
        )
    return text


def _hosts(text: str, base: Path) -> tuple[str, ...]:
    words = tuple(word.lower() for word in _words(text, base))
    for word in words:
        if "/" in word or "*" in word:
            raise ValueError(f"{word!r} is no host: it takes names or addresses, with :PORT if only that one is meant")
    return words


def _origins(text: str, base: Path) -> tuple[str, ...]:
    words = tuple(word.lower() for word in _words(text, base))
    for word in words:
        if not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/\s*]+", word):
            raise ValueError(f"{word!r} is no origin: it takes https://HOST or https://HOST:PORT, without a path")
    return words


def _proxies(text: str, base: Path) -> tuple[str, ...]:
    words = _words(text, base)
    if "all" in words:
        raise ValueError("all would let every client invent its address: name the proxies")
    return Networks(words).cidr


def _queue_setting(name: str) -> Callable[[str, Path], int | str]:
    """How POST /settings reads it; but no backoff is what the functions begin with, and needs no word here."""

    def parse(text: str, _base: Path) -> int | str:
        value = SETTINGS[name].parse(text)
        return "" if value == "none" else value

    return parse


#: section -> key -> (field of Config, what reads it).
_KEYS: dict[str, dict[str, tuple[str, Callable[[str, Path], Any]]]] = {
    "server": {
        "listen": ("listen", _listen),
        "port": ("port", _number(0, 65535)),
        "data": ("data", _path),
        "drain": ("drain", _seconds(0, 3600)),
        "grace": ("grace", _seconds(0, 3600)),
        "silence": ("silence", _seconds(2, 300)),
        "get_consumes": ("get_consumes", _yes_no),
        "access_log": ("access_log", _yes_no_or_path),
        "acl_file": ("acl_file", _path),
        "hosts": ("hosts", _hosts),
        "allowed_origins": ("allowed_origins", _origins),
        "xheaders": ("xheaders", _yes_no),
        "xheader": ("xheader", _one_of("X-Real-IP", "X-Forwarded-For")),
        "trusted_proxies": ("trusted_proxies", _proxies),
    },
    "redis": {
        "redis": ("redis", _redis),
        "dbid": ("redis_db", _number(0, 2**31 - 1)),
        "username": ("redis_username", _text),
        "password": ("redis_password", _text),
        "deadline": ("deadline", _seconds(0.1, 300)),
        "appendfsync": ("appendfsync", _one_of("everysec", "always")),
        # The first RestMQ's way to say which Redis; _address makes `redis` of them.
        "unixsocket": ("unixsocket", _path),
        "host": ("host", _text),
        "port": ("host_port", _number(1, 65535)),
    },
    "limits": {
        "max_value": ("max_value", _size(1, 256 * _MIB)),
        "max_body": ("max_body", _size(_KIB, 1024 * _MIB)),
        "max_bodies": ("max_bodies", _size(_KIB, 1024 * 1024 * _MIB)),
        "max_answers": ("max_answers", _size(_MIB, 1024 * 1024 * _MIB)),
        "head_timeout": ("head_timeout", _seconds(1, 3600)),
        "body_timeout": ("body_timeout", _seconds(1, 3600)),
        "idle_timeout": ("idle_timeout", _seconds(1, 86400)),
    },
    "live": {
        "max_waiting": ("max_waiting", _size(64 * _KIB, 1024 * _MIB)),
        "stall": ("stall", _seconds(1, 86400)),
        "heartbeat": ("heartbeat", _seconds(0.1, 3600)),
        "per_client": ("per_client", _number(0, 10**9)),
    },
    "queues": {
        **{name: (f"queues.{name}", _queue_setting(name)) for name in SETTINGS},
        "idempotency": ("idempotency", _seconds(1, 7 * 86400)),
    },
    "frontend": {
        "static_path": ("static_path", _path),
        "template_path": ("template_path", _path),
    },
}

#: What the first RestMQ had and nothing reads any more, and why.
_GONE: dict[str, dict[str, str]] = {
    "server": {"debug": "errors are always logged with their traceback and never shown to a client"},
    "redis": {
        "enabled": "there is no RestMQ without Redis",
        "poolsize": "one connection carries everything, in order",
    },
    "email": dict.fromkeys(("enabled", "host", "port", "tls", "username", "password"), "RestMQ sends no mail"),
}


def load(path: Path | None, **overrides: object) -> Config:
    """The settings of a file (None: of no file), with what the command line says instead.

    Overrides go by the names of Config' fields; None is one not given, and a str is
    read and checked as in the file, paths in it from the working directory.
    Raises ConfigError, whose text names section, key, file and line.
    """
    values: dict[str, Any] = {}
    notes: list[str] = []
    access_rules: list[Section] = []
    where: dict[str, str] = {}
    base = Path.cwd()
    if path is not None:
        path = path.absolute()
        for section in ini.read(path):
            if acl.is_section(section.name):
                access_rules.append(section)
            else:
                _section(section, path.parent, values, notes, where)
        acl.rules(access_rules)  # said here, with the rest of the file, rather than later
    _address(values, notes, where)
    for name, value in overrides.items():
        if value is not None:
            values[name] = _override(name, value, base)
    if access_rules and values.get("acl_file"):
        raise ConfigError(
            f"{access_rules[0].where}: access sections stand in one place: here or in acl_file, not in both"
        )
    queues = {name: values.pop(f"queues.{name}", default) for name, default in DEFAULTS.items()}
    settings = Config(**values, queues=queues, source=path, notes=tuple(notes))
    if overrides.get("port") is not None and re.match(r"(tcp|tcp6|ssl|tls):.", settings.listen):
        note = f"--port {settings.port} does nothing: listen = {settings.listen} is an endpoint, which says its own"
        settings = replace(settings, notes=(*settings.notes, note))
    return _settle(settings, "max_body" in values)


def access(settings: Config, guesses: Guesses | None = None) -> Acl:
    """The access rules of these settings, which delay `guesses`. Raises ConfigError."""
    return Acl(
        settings.acl,
        others=None if settings.acl != settings.source else {*_KEYS, *_GONE},
        origins=Origins(settings.hosts, settings.allowed_origins, settings.trusted_proxies),
        guesses=guesses,
    )


def _section(section: Section, base: Path, values: dict[str, Any], notes: list[str], where: dict[str, str]) -> None:
    known, gone = _KEYS.get(section.name, {}), _GONE.get(section.name, {})
    if not known and not gone:
        names = {*_KEYS, *_GONE, *acl.KINDS}
        raise ConfigError(
            f"{section.where}: the section [{section.name}] is not known, {suggest.hint(section.name, sorted(names))}"
        )
    for key, entry in section.keys.items():
        if key in gone:
            notes.append(f"{entry.where}: [{section.name}] {key} does nothing: {gone[key]}")
        elif key not in known:
            raise ConfigError(f"{entry.where}: [{section.name}] {key} is not known, {_hint(section.name, key)}")
        elif entry.text:
            name, parse = known[key]
            values[name] = _value(f"[{section.name}] {key}", entry, parse, base)
            where[name] = entry.where


def _hint(section: str, key: str) -> str:
    """Where the key belongs if it stands in the wrong section, else the nearest in this one."""
    if (section, key) == ("server", "host"):
        return "did you mean 'listen'?"
    for other, keys in _KEYS.items():
        if key in keys and other != section:
            return f"it stands in [{other}]"
    return suggest.hint(key, sorted({*_KEYS.get(section, {}), *_GONE.get(section, {})}))


def _value(name: str, entry: Entry, parse: Callable[[str, Path], Any], base: Path) -> Any:
    try:
        return parse(entry.text, base)
    except ValueError as error:
        raise ConfigError(f"{entry.where}: {name}: {error}") from None


def _override(name: str, value: object, base: Path) -> object:
    """One setting of the command line, read like the file's."""
    for keys in _KEYS.values():
        for field_name, parse in keys.values():
            if field_name == name and isinstance(value, str):
                return _value(f"--{name}", Entry(value, "command line"), parse, base)
    if name not in {known.name for known in fields(Config)}:
        raise TypeError(f"{name} is no setting")
    return value


def _address(values: dict[str, Any], notes: list[str], where: Mapping[str, str]) -> None:
    """Make `redis` of the first RestMQ's unixsocket, host and port."""
    socket, host, port = (values.pop(name, None) for name in ("unixsocket", "host", "host_port"))
    if socket is None and host is None and port is None:
        return
    if "redis" in values:
        raise ConfigError(f"{where['redis']}: [redis] redis says which one, so unixsocket, host and port cannot")
    if socket is not None:
        values["redis"] = f"unix:{socket}"
        if host is not None or port is not None:
            notes.append("[redis] host and port do nothing: unixsocket says where Redis is")
    else:
        values["redis"] = f"{host or '127.0.0.1'}:{port or 6379}"


def _settle(settings: Config, body_given: bool) -> Config:
    """What one setting means for another."""
    if settings.acl_file is not None and not settings.acl_file.is_file():
        raise ConfigError(
            f"{settings.acl_file}: the acl_file is not there; without its rules everybody would be let in"
        )
    if settings.max_body < settings.max_form:
        if body_given:
            raise ConfigError(
                f"[limits] max_body: it takes {settings.max_form} bytes or more, "
                f"three times max_value and 64 KiB: a form escapes"
            )
        settings = replace(settings, max_body=settings.max_form)
    if settings.xheaders and not settings.trusted_proxies:
        settings = replace(settings, trusted_proxies=_LOOPBACK)
    # restmq.conf is watched though no access section stands there yet.
    return replace(settings, acl=settings.acl_file or settings.source)
