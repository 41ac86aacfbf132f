"""TLS: which certificate and which protocol a handshake is answered with, and reading the files again.

Owns what Twisted's endpoints ssl: and tls: leave open; knows neither HTTP nor the socket. Twisted reads the files
once, and breaks off every handshake whose client offers ALPN, for no protocol is named. listener.py listens with it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator, IProtocolNegotiationFactory
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.protocols.tls import BufferingTLSTransport
from twisted.python.failure import Failure
from zope.interface import alsoProvides, implementer

from restmq.model.ini import ConfigError
from restmq.runtime.changes import Changes

#: What is spoken, most wanted first, by its names in ALPN (RFC 7301 section 6).
PROTOCOLS = (b"http/1.1", b"http/1.0")
#: The words of an endpoint that name a file, or the folder of tls:.
_FILES = ("privateKey", "certKey", "extraCertChain", "dhParameters", "path")
#: What Twisted calls the words that stand in an endpoint without a name.
_PLACES = {
    "ssl": ("port", "privateKey", "certKey", "sslmethod", "interface", "backlog", "extraCertChain", "dhParameters"),
    "tls": ("path", "port", "backlog", "interface"),
}
_log = Logger()


def is_tls(description: str) -> bool:
    """Whether an endpoint of this description speaks TLS."""
    return description.startswith(("ssl:", "tls:"))


def endpoint(description: str, reactor: Any) -> Any:
    """Twisted's endpoint of a description. Raises ConfigError, in one line, for one that cannot be read."""
    try:
        return serverFromString(reactor, description)
    except Exception as error:  # each kind of endpoint, and each fault of a PEM file, has an error of its own
        raise _refused(description, error) from None


def _refused(description: str, error: Exception) -> ConfigError:
    """What Twisted or OpenSSL says; of OpenSSL's list of faults, the last word of each is the plainest."""
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
    """Those of them that hold a private key, or may; none of an endpoint without TLS."""
    named = _named(description)
    return [named["privateKey"]] if "privateKey" in named else files(description)


def _named(description: str) -> dict[str, str]:
    """The files that an endpoint names, and the folder of tls:, by the words that it has for them."""
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
    """Choose what to speak, of what a client offers.

    Raises SSL.Error when it is none of ours. pyOpenSSL makes the alert no_application_protocol of that,
    which RFC 7301 section 3.2 demands, and the connection ends.
    """
    for protocol in PROTOCOLS:
        if protocol in offered:
            return protocol
    raise SSL.Error([("SSL routines", "", "no application protocol")])


class _Transport(BufferingTLSTransport):
    """TLS whose end leaves no cycle, so that a connection is gone when it is lost.

    Twisted keeps the protocol that is served, as such and as its producer, and that one keeps this. Where a client
    says no goodbye, Twisted keeps an error whose frames keep it.
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
    """The port, whose connections are of the class above: an endpoint has no word for that."""
    port.factory.protocol = _Transport
    return port


@implementer(IOpenSSLServerConnectionCreator)
class Certificates:
    """Makes the connections of a TLS endpoint with the files that its description names, as they are by now.

    Raises ConfigError when they cannot be read, or do not belong together.
    """

    def __init__(self, description: str, reactor: Any) -> None:
        self._description, self._reactor = description, reactor
        self._changes = Changes(lambda: map(Path, files(description)))
        self._creator = self._read()

    def serverConnectionForTLS(self, protocol: Any) -> SSL.Connection:
        """A connection for the next handshake (Twisted's IOpenSSLServerConnectionCreator)."""
        creator = self._creator
        if hasattr(creator, "serverConnectionForTLS"):
            made: SSL.Connection = creator.serverConnectionForTLS(protocol)
            return made
        return SSL.Connection(creator.getContext(), None)  # Twisted before 26

    def listen(self, factory: Any) -> Any:
        """Listen: a Deferred of the port, as Twisted's endpoints answer."""
        listening = endpoint(self._description, self._reactor)
        setattr(listening, _attribute(listening), self)
        if not hasattr(self._creator, "getContext"):  # that of tls: makes a context for each name, and asks the factory
            factory.acceptableProtocols = lambda: PROTOCOLS
            alsoProvides(factory, IProtocolNegotiationFactory)
        opened: Deferred[Any] = listening.listen(factory)
        return opened.addCallback(_tidy)

    def reload_if_changed(self) -> None:
        """Read the files again when they have changed and are at rest; call it about once a second.

        Connections that are there keep what they began with. Files that cannot be used change nothing and leave a
        line in the log.
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
        """What makes connections of the files as they are now. Raises ConfigError."""
        made = endpoint(self._description, self._reactor)
        creator = getattr(made, _attribute(made))
        try:
            if hasattr(creator, "getContext"):
                # OpenSSL looks whether key and certificate belong together.
                creator.getContext().set_alpn_select_callback(_select)
        except Exception as error:  # OpenSSL's, of which some are of no common kind
            raise _refused(self._description, error) from None
        return creator


def _attribute(made: Any) -> str:
    """Where Twisted's endpoint has what makes its connections: tls: in the open, ssl: in a private attribute."""
    return "connectionCreator" if hasattr(made, "connectionCreator") else "_sslContextFactory"
