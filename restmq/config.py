"""restmq.conf, read into one frozen object. Unknown names are refused.

Owns every setting of the process: its section, its key, its default, and the values that it takes. Does not know what
a setting is used for. The error for an unknown section or key has the line and the nearest known name. A setting of
the first RestMQ that has no effect any more is accepted, and named in `Config.notes`. Read restmq.conf beside this
file, then tap.py.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from restmq.access import acl
from restmq.access.acl import Acl
from restmq.access.guesses import Guesses
from restmq.access.origin import Origins
from restmq.model import ini, suggest, units
from restmq.model.ini import ConfigError, Entry, Section
from restmq.model.networks import Networks
from restmq.model.settings import DEFAULTS, SETTINGS

__all__ = ["Config", "ConfigError", "access", "load"]

T = TypeVar("T")
_KIB, _MIB = 1 << 10, 1 << 20
#: Most connections that wait in the kernel while the instance is busy or starts. Twisted's 50 are too few if a thousand
#: live consumers come back at once. The kernel allows fewer if net.core.somaxconn is lower.
BACKLOG = 4096
_LOOPBACK = ("127.0.0.0/8", "::1/128")


def _default_data() -> Path:
    """/var/lib/restmq for root, else restmq in the user's data directory (XDG Base Directory)."""
    if os.geteuid() == 0:
        return Path("/var/lib/restmq")
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "restmq"


@dataclass(frozen=True)
class Config:
    """All of restmq.conf, checked. Times are seconds, sizes are bytes. restmq.conf explains each setting."""

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
    #: The settings of queues without their own, by the names of settings.SETTINGS, as the functions in Redis read them.
    queues: Mapping[str, int | str] = field(default_factory=lambda: dict(DEFAULTS))

    # [frontend]: None means the files that come with RestMQ
    static_path: Path | None = None
    template_path: Path | None = None

    #: The file that this was read from, if any.
    source: Path | None = None
    #: The file whose access sections hold: acl_file, else the source.
    acl: Path | None = None
    #: Sentences for the log about settings that have no effect.
    notes: tuple[str, ...] = ()

    @property
    def max_form(self) -> int:
        """The largest form, in bytes. A form may escape each byte of a value as three."""
        return 3 * self.max_value + 64 * _KIB

    @property
    def endpoint(self) -> str:
        """Where to listen, as a Twisted endpoint description.

        A `listen` that is an endpoint stays as it is, but a unix socket gets our backlog if it names none.
        """
        if self.listen.startswith("unix:") and ":backlog=" not in self.listen:
            return f"{self.listen}:backlog={BACKLOG}"
        if _ENDPOINT.match(self.listen):
            return self.listen
        interface = self.listen.replace(":", "\\:")
        return f"tcp:{self.port}:backlog={BACKLOG}:interface={interface}"


# ---- the values that a setting takes


Parse = Callable[[str, Path], object]  # of a text, and the folder where its paths begin


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


def _plain(parse: Callable[[str], T]) -> Callable[[str, Path], T]:
    """A parser for a value that does not name a file."""
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
                "it takes an address, unix:PATH or a Twisted endpoint; the port of an address goes into port"
            ) from None
    return text


def _redis(text: str, base: Path) -> str:
    """auto, embedded, HOST:PORT, or unix:PATH with an absolute path."""
    if text.lower() in ("auto", "embedded"):
        return text.lower()
    if text.startswith("unix:") and len(text) > 5:
        return f"unix:{base / text[5:]}"
    host, _colon, port = text.rpartition(":")
    if "://" in text or "@" in text or not host or not port.isdigit() or not 1 <= int(port) <= 65535:
        # The error does not repeat the text, which may be a URL with a password.
        raise ValueError(
            "it takes auto, embedded, HOST:PORT or unix:PATH; user name, password and database "
            "go into username, password and dbid of [redis]"
        )
    return text


def _hosts(text: str, base: Path) -> tuple[str, ...]:
    words = tuple(word.lower() for word in _words(text, base))
    for word in words:
        if "/" in word or "*" in word:
            raise ValueError(f"{word!r} is not a host: it takes names or addresses, with :PORT to allow only that port")
    return words


def _origins(text: str, base: Path) -> tuple[str, ...]:
    words = tuple(word.lower() for word in _words(text, base))
    for word in words:
        if not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/\s*]+", word):
            raise ValueError(f"{word!r} is not an origin: it takes https://HOST or https://HOST:PORT, without a path")
    return words


def _proxies(text: str, base: Path) -> tuple[str, ...]:
    words = _words(text, base)
    if "all" in words:
        raise ValueError("all would let every client invent its address: list the proxies")
    return Networks(words).cidr


def _queue_setting(name: str) -> Callable[[str, Path], int | str]:
    """The parser of a queue's setting, as in POST /settings.

    No backoff is the functions' default, so it is stored as "".
    """

    def parse(text: str, _base: Path) -> int | str:
        value = SETTINGS[name].parse(text)
        return "" if value == "none" else value

    return parse


#: section -> key -> (field of Config, its parser).
_KEYS: dict[str, dict[str, tuple[str, Parse]]] = {
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
        # The first RestMQ's names for the address of Redis; _address() makes `redis` from them.
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

#: Settings of the first RestMQ that have no effect any more, and why.
_GONE: dict[str, dict[str, str]] = {
    "server": {"debug": "errors are always logged with their traceback and never shown to a client"},
    "redis": {
        "enabled": "there is no RestMQ without Redis",
        "poolsize": "one connection carries everything, in order",
    },
    "email": dict.fromkeys(("enabled", "host", "port", "tls", "username", "password"), "RestMQ sends no mail"),
}


def load(path: Path | None, **overrides: object) -> Config:
    """Read a file's settings (None: no file), with those of the command line in their place.

    Overrides have the names of Config's fields. None means that an override is not given. A str is read and checked as
    in the file, and paths in it begin at the working directory. Raises ConfigError, whose text names section, key,
    file and line.
    """
    values: dict[str, Any] = {}  # Any: mypy cannot compare the values with the fields of Config that they fill
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
        acl.rules(access_rules)  # reports errors here, together with those in the rest of the file
    _address(values, notes, where)
    for name, value in overrides.items():
        if value is not None:
            values[name] = _override(name, value, base)
    if access_rules and values.get("acl_file"):
        raise ConfigError(
            f"{access_rules[0].where}: access sections must stand in one place: here or in acl_file, not in both"
        )
    queues = {name: values.pop(f"queues.{name}", default) for name, default in DEFAULTS.items()}
    config = Config(**values, queues=queues, source=path, notes=tuple(notes))
    if overrides.get("port") is not None and re.match(r"(tcp|tcp6|ssl|tls):.", config.listen):
        note = f"--port {config.port} does nothing: listen = {config.listen} is an endpoint, which has its own port"
        config = replace(config, notes=(*config.notes, note))
    return _completed(config, "max_body" in values)


def access(config: Config, guesses: Guesses | None = None) -> Acl:
    """The access rules of this configuration, which delay `guesses`. Raises ConfigError."""
    return Acl(
        config.acl,
        others=None if config.acl != config.source else {*_KEYS, *_GONE},
        origins=Origins(config.hosts, config.allowed_origins, config.trusted_proxies),
        guesses=guesses,
    )


def _section(section: Section, base: Path, values: dict[str, object], notes: list[str], where: dict[str, str]) -> None:
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
    """The section to which the key belongs, if it stands in the wrong one; else the nearest key of this section."""
    if (section, key) == ("server", "host"):
        return "did you mean 'listen'?"
    for other, keys in _KEYS.items():
        if key in keys and other != section:
            return f"it belongs in [{other}]"
    return suggest.hint(key, sorted({*_KEYS.get(section, {}), *_GONE.get(section, {})}))


def _value(name: str, entry: Entry, parse: Parse, base: Path) -> object:
    try:
        return parse(entry.text, base)
    except ValueError as error:
        raise ConfigError(f"{entry.where}: {name}: {error}") from None


def _override(name: str, value: object, base: Path) -> object:
    """One setting of the command line, read as in the file."""
    for keys in _KEYS.values():
        for field_name, parse in keys.values():
            if field_name == name and isinstance(value, str):
                return _value(f"--{name}", Entry(value, "command line"), parse, base)
    if name not in {known.name for known in fields(Config)}:
        raise TypeError(f"{name} is not a setting")
    return value


def _address(values: dict[str, object], notes: list[str], where: Mapping[str, str]) -> None:
    """Make `redis` from the first RestMQ's unixsocket, host and port."""
    socket, host, port = (values.pop(name, None) for name in ("unixsocket", "host", "host_port"))
    if socket is None and host is None and port is None:
        return
    if "redis" in values:
        raise ConfigError(f"{where['redis']}: [redis] redis has the address, so remove unixsocket, host and port")
    if socket is not None:
        values["redis"] = f"unix:{socket}"
        if host is not None or port is not None:
            notes.append("[redis] host and port do nothing: unixsocket says where Redis is")
    else:
        values["redis"] = f"{host or '127.0.0.1'}:{port or 6379}"


def _completed(config: Config, body_given: bool) -> Config:
    """Apply what one setting means for another."""
    if config.acl_file is not None and not config.acl_file.is_file():
        raise ConfigError(
            f"{config.acl_file}: the acl_file does not exist; without its rules every client would be let in"
        )
    if config.max_body < config.max_form:
        if body_given:
            raise ConfigError(
                f"[limits] max_body: it takes {config.max_form} bytes or more, "
                f"three times max_value and 64 KiB, because a form escapes its value"
            )
        config = replace(config, max_body=config.max_form)
    if config.xheaders and not config.trusted_proxies:
        config = replace(config, trusted_proxies=_LOOPBACK)
    # restmq.conf is watched even if it has no access section yet.
    return replace(config, acl=config.acl_file or config.source)
