"""What an operator should know of who may come in: a line of the log each, at the start and when rules change.

Owns these lines; decides nothing. access/acl.py has the rules, listener.py the port. Read broker.py next, which
connects them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from twisted.internet.interfaces import IAddress
from twisted.logger import Logger

from restmq import tls
from restmq.access.acl import Acl
from restmq.model.networks import is_loopback

_log = Logger()
_OTHERS_READ, _OTHERS_WRITE = 0o004, 0o002  # bits of a file's mode (inode(7))

#: Addresses that stand for all of this machine's.
EVERY = ("0.0.0.0", "::")
ALL = " (every address of this machine)"


class Exposure:
    """Tells what is open. `opened` is told where RestMQ listens; `look` is to be called about once a second."""

    def __init__(self, settings: Any, acl: Acl) -> None:
        self._settings, self._acl = settings, acl
        self._where = ""
        self._network = self._proxied = False
        self._generation = acl.generation

    def opened(self, address: IAddress) -> None:
        """The port is open, at this address of Twisted's."""
        self._where = where(address, tls.is_tls(self._settings.endpoint))
        host = getattr(address, "host", "")
        self._network = bool(host) and not is_loopback(host)
        self._proxied = not host or self._settings.xheaders
        _log.info("RestMQ listens on {where}", where=self._where + (ALL if host in EVERY else ""))
        self._tell()

    def look(self) -> None:
        """Tell it again when the rules were read again."""
        if self._acl.generation != self._generation and self._where:
            self._generation = self._acl.generation
            self._tell()

    def _tell(self) -> None:
        for line in (*self._of_rules(), *self._of_hosts(), *self._of_files()):
            _log.warn("{line}", line=line)

    def _of_rules(self) -> Iterator[str]:
        opened, closed = self._acl.opened()
        if closed and opened:
            yield (
                f"some access sections let everybody in while others do not: {_listed(opened)} are open, "
                f"{_listed(closed)} are not. Write sections for those that are open, if that is not meant"
            )
        elif opened and self._network:
            yield (
                f"everybody who reaches {self._where} may do everything: there are no access rules. "
                "Write them at the end of restmq.conf, or listen on 127.0.0.1 only"
            )
        elif opened and self._proxied:
            yield (
                f"everybody whom the proxy before {self._where} lets through may do everything: "
                "there are no access rules. Write them at the end of restmq.conf, unless the proxy has its own"
                + self._others()
            )

    def _others(self) -> str:
        """What to do about a unix socket that every user of this machine may write to; "" for anything else."""
        path = self._where.removeprefix("unix:")
        try:
            reached = path != self._where and Path(path).stat().st_mode & _OTHERS_WRITE
        except OSError:
            return ""
        if not reached:
            return ""
        return (
            ". Every user of this machine who reaches the folder may connect, too: write "
            f"listen = {self._where}:mode=660 for the socket's group alone"
        )

    def _of_hosts(self) -> Iterator[str]:
        if self._settings.hosts or not (self._network or self._proxied):
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
        if self._settings.source is not None and self._settings.redis_password:
            held[self._settings.source] = "passwords"
        for key in tls.keys(self._settings.endpoint):
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


def where(address: Any, secure: bool) -> str:
    """An address of Twisted's as a URL, or as unix:PATH."""
    host = getattr(address, "host", "")
    if not host:
        name = getattr(address, "name", None) or b""
        return "unix:" + (name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name))
    return f"http{'s' if secure else ''}://{f'[{host}]' if ':' in host else host}:{address.port}/"


def _listed(sections: list[str]) -> str:
    return ", ".join(f"[{section}]" for section in sections)
