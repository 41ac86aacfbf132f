"""TLS: the certificate and the protocol of a handshake, and reading the files again.

Owns what Twisted's endpoints ssl: and tls: leave open. Knows neither HTTP nor the socket. Twisted reads the files only
once. It also breaks off every handshake whose client offers ALPN, because no protocol is named. listener.py listens
with this module.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any  # the private parts of Twisted's endpoints, ports and protocols, which have no types

from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator, IProtocol, IProtocolNegotiationFactory
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.protocols.tls import BufferingTLSTransport
from twisted.python.failure import Failure
from zope.interface import alsoProvides, implementer

from restmq.model.ini import ConfigError
from restmq.runtime.changes import Changes

#: The protocols that RestMQ speaks, the preferred one first, by their names in ALPN (RFC 7301 section 6).
PROTOCOLS = (b"http/1.1", b"http/1.0")
#: The keywords of an endpoint that name a file, or the folder of tls:.
_FILES = ("privateKey", "certKey", "extraCertChain", "dhParameters", "path")
#: Twisted's keywords for the parts of an endpoint that have none, in order.
_PLACES = {
    "ssl": ("port", "privateKey", "certKey", "sslmethod", "interface", "backlog", "extraCertChain", "dhParameters"),
    "tls": ("path", "port", "backlog", "interface"),
}
_log = Logger()


def is_tls(description: str) -> bool:
    """Whether an endpoint of this description speaks TLS."""
    return description.startswith(("ssl:", "tls:"))


def endpoint(description: str, reactor: object) -> Any:
    """Twisted's endpoint of a description. Raises ConfigError, in one line, for one that cannot be read."""
    try:
        return serverFromString(reactor, description)
    except Exception as error:  # each kind of endpoint, and each fault of a PEM file, raises another class
        raise _refused(description, error) from None


def _refused(description: str, error: Exception) -> ConfigError:
    """The error with the text of Twisted or OpenSSL.

    OpenSSL has a list of faults, and the last part of each is the clearest.
    """
    text = str(error)
    if error.args and isinstance(error.args[0], list):
        text = "; ".join(str(fault[-1]) for fault in error.args[0])
    return ConfigError(f"cannot listen on {description!r}: {text or type(error).__name__}")


def files(description: str) -> list[str]:
    """The files that a TLS endpoint reads: those that ssl: names, or the *.pem that lie in the folder of tls: now."""
    found = _named(description)
    if description.startswith("tls:"):
        return sorted(str(path) for folder in found.values() for path in Path(folder).rglob("*.pem"))
    return list(dict.fromkeys(found.values()))


def keys(description: str) -> list[str]:
    """The files that hold a private key, or may hold one. An endpoint without TLS has none."""
    named = _named(description)
    return [named["privateKey"]] if "privateKey" in named else files(description)


def _named(description: str) -> dict[str, str]:
    """The files that an endpoint names, and the folder of tls:, by their keywords."""
    kind, *parts = re.split(r"(?<!\\):", description)
    places = iter(_PLACES.get(kind, ()))
    found = {"privateKey": "server.pem"} if kind == "ssl" else {}
    for part in parts:
        name, mark, text = part.partition("=")
        if not mark:
            name, text = next(places, ""), part
        if kind in _PLACES and name in _FILES:
            found[name] = re.sub(r"\\(.)", r"\1", text)
    return found


def _select(_connection: SSL.Connection, offered: Sequence[bytes]) -> bytes:
    """Choose the protocol, of those that a client offers.

    Raises SSL.Error if RestMQ speaks none of them. pyOpenSSL then sends the alert no_application_protocol, which RFC
    7301 section 3.2 requires, and the connection ends.
    """
    for protocol in PROTOCOLS:
        if protocol in offered:
            return protocol
    raise SSL.Error([("SSL routines", "", "no application protocol")])


class _Transport(BufferingTLSTransport):
    """A TLS transport whose end leaves no cycle, so that a lost connection is freed at once.

    Twisted refers to the served protocol, as such and as its producer, and the protocol refers to the transport. If a
    client sends no goodbye, Twisted also keeps an error whose frames refer to the transport.
    """

    wrappedProtocol: Any
    _producer: Any

    def _tlsShutdownFinished(self, reason: Failure | None) -> None:
        super()._tlsShutdownFinished(reason)  # type: ignore[no-untyped-call]  # Twisted has no types for it
        if reason is not None:
            reason.cleanFailure()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        super().connectionLost(reason)
        self.wrappedProtocol = self._producer = None


def _tidy(port: Any) -> Any:
    """The port, whose connections get the class above. An endpoint has no option for that."""
    port.factory.protocol = _Transport
    return port


@implementer(IOpenSSLServerConnectionCreator)
class Certificates:
    """Makes the connections of a TLS endpoint, with the files that its description names as they are now.

    Raises ConfigError for files that cannot be read, or do not belong together.
    """

    def __init__(self, description: str, reactor: object) -> None:
        self._description, self._reactor = description, reactor
        self._changes = Changes(lambda: map(Path, files(description)))
        self._creator = self._read()

    def serverConnectionForTLS(self, protocol: IProtocol) -> SSL.Connection:
        """A connection for the next handshake (Twisted's IOpenSSLServerConnectionCreator)."""
        creator = self._creator
        if hasattr(creator, "serverConnectionForTLS"):
            made: SSL.Connection = creator.serverConnectionForTLS(protocol)
            return made
        return SSL.Connection(creator.getContext(), None)  # Twisted before 26

    def listen(self, factory: Any) -> Deferred[Any]:
        """Listen. Returns a Deferred of the port, as Twisted's endpoints do."""
        listening = endpoint(self._description, self._reactor)
        setattr(listening, _attribute(listening), self)
        if not hasattr(self._creator, "getContext"):
            # tls: makes a context for each name, and asks the factory for protocols.
            factory.acceptableProtocols = lambda: PROTOCOLS
            alsoProvides(factory, IProtocolNegotiationFactory)
        opened: Deferred[Any] = listening.listen(factory)
        return opened.addCallback(_tidy)

    def reload_if_changed(self) -> None:
        """Read the files again when they have changed and do not change any more. Call this about once a second.

        Existing connections keep their certificate. Files that cannot be used change nothing, and an error is logged.
        """
        if not self._changes.found():
            return
        try:
            self._creator = self._read()
        except ConfigError as error:
            _log.error("the certificate stays as it was: {error}", error=error)
            return
        read = ", ".join(files(self._description))
        _log.info("the certificate was read again, new connections use it: {read}", read=read)

    def _read(self) -> Any:
        """The maker of connections, with the files as they are now. Raises ConfigError."""
        made = endpoint(self._description, self._reactor)
        creator = getattr(made, _attribute(made))
        try:
            if hasattr(creator, "getContext"):
                # OpenSSL checks here whether key and certificate belong together.
                creator.getContext().set_alpn_select_callback(_select)
        except Exception as error:  # OpenSSL's errors have no common class
            raise _refused(self._description, error) from None
        return creator


def _attribute(made: Any) -> str:
    """The attribute in which Twisted's endpoint has its maker of connections.

    It is public for tls: and private for ssl:.
    """
    return "connectionCreator" if hasattr(made, "connectionCreator") else "_sslContextFactory"
