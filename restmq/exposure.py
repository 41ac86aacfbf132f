"""Warnings for operators about who may come in: a line of the log each, at the start and when the rules change.

Owns these lines. Decides nothing. access/acl.py has the rules, listener.py the port. Read broker.py next, which
connects them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from twisted.internet.interfaces import IAddress
from twisted.logger import Logger

from restmq import tls
from restmq.access.acl import Acl
from restmq.config import Config
from restmq.model.networks import is_loopback

_log = Logger()
_OTHERS_READ, _OTHERS_WRITE = 0o004, 0o002  # bits of a file's mode (inode(7))

#: Addresses that stand for all of this machine's.
EVERY = ("0.0.0.0", "::")
ALL = " (every address of this machine)"


class Exposure:
    """Warns about what is open. Call `check_rules` about once a second."""

    def __init__(self, config: Config, acl: Acl) -> None:
        self._config, self._acl = config, acl
        self._where = ""
        self._network = self._proxied = False
        self._generation = acl.generation

    def on_listening(self, address: IAddress) -> None:
        """The port is open, at this address of Twisted's: log it, and warn."""
        self._where = where(address, tls.is_tls(self._config.endpoint))
        host = getattr(address, "host", "")
        self._network = bool(host) and not is_loopback(host)
        self._proxied = not host or self._config.xheaders
        _log.info("RestMQ listens on {where}", where=self._where + (ALL if host in EVERY else ""))
        self._warn()

    def check_rules(self) -> None:
        """Warn again if the rules were read again."""
        if self._acl.generation != self._generation and self._where:
            self._generation = self._acl.generation
            self._warn()

    def _warn(self) -> None:
        for line in (*self._of_rules(), *self._of_hosts(), *self._of_files()):
            _log.warn("{line}", line=line)

    def _of_rules(self) -> Iterator[str]:
        opened, closed = self._acl.open_and_closed()
        if closed and opened:
            yield (
                f"some access sections let every client in while others do not: {_listed(opened)} are open, "
                f"{_listed(closed)} are not. If this is not intended, write sections for those that are open"
            )
        elif opened and self._network:
            yield (
                f"every client that reaches {self._where} may do everything: there are no access rules. "
                "Write them at the end of restmq.conf, or listen on 127.0.0.1 only"
            )
        elif opened and self._proxied:
            yield (
                f"every client that the proxy before {self._where} lets through may do everything: "
                "there are no access rules. Write them at the end of restmq.conf, unless the proxy has its own"
                + self._others()
            )

    def _others(self) -> str:
        """The remedy for a unix socket that every user of this machine may write to, or "" for any other address."""
        path = self._where.removeprefix("unix:")
        try:
            reached = path != self._where and Path(path).stat().st_mode & _OTHERS_WRITE
        except OSError:
            return ""
        if not reached:
            return ""
        return (
            ". Every user of this machine that can enter the folder may connect, too: write "
            f"listen = {self._where}:mode=660 for the socket's group alone"
        )

    def _of_hosts(self) -> Iterator[str]:
        if self._config.hosts or not (self._network or self._proxied):
            return
        remedy = "Set hosts in [server] of restmq.conf to the names and addresses that clients use"
        if not self._network:
            remedy += ", or let the proxy refuse other names, as docs/nginx.conf does"
        yield (
            f"hosts is not set, so a page in a browser may reach {self._where} by a name of its own (DNS rebinding). "
            + remedy
        )

    def _of_files(self) -> Iterator[str]:
        held: dict[Path, str] = {}
        if self._acl.path is not None:
            held[self._acl.path] = "passwords" if self._acl.has_passwords else ""
        if self._config.source is not None and self._config.redis_password:
            held[self._config.source] = "passwords"
        for key in tls.keys(self._config.endpoint):
            held[Path(key)] = "the key of TLS"
        for path, what in held.items():
            try:
                mode = path.stat().st_mode
            except OSError:
                continue
            if mode & _OTHERS_WRITE:
                yield f"every user of this machine may change {path}: chmod o-w {path}"
            elif mode & _OTHERS_READ and what:
                yield f"every user of this machine may read {what} in {path}: chmod o-r {path}"


def where(address: IAddress, secure: bool) -> str:
    """An address of Twisted's as a URL, or as unix:PATH."""
    host = getattr(address, "host", "")
    if not host:
        name = getattr(address, "name", None) or b""
        return "unix:" + (name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name))
    port = getattr(address, "port", 0)
    return f"http{'s' if secure else ''}://{f'[{host}]' if ':' in host else host}:{port}/"


def _listed(sections: list[str]) -> str:
    return ", ".join(f"[{section}]" for section in sections)
