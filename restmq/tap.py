"""`twistd restmq`: the options of the command line, and the service they make.

Owns what starts, in which order, and what it says when it cannot. Must not know
how anything is done. `twistd --help` lists it by twisted/plugins/restmq_plugin.py.
Read broker.py next: what is started here is `broker.services`.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from twisted.application.service import MultiService
from twisted.internet.error import CannotListenError
from twisted.logger import ILogObserver, Logger
from twisted.python import usage
from twisted.python.components import Componentized

import restmq
from restmq import config, embedded, log
from restmq.config import Config
from restmq.model.ini import ConfigError
from restmq.runtime.ordered import Ordered

_log = Logger()


class CannotStart(SystemExit, Exception):
    """The reason in one line, and exit code 1.

    A SystemExit, so that Python prints it and no traceback; an Exception, so that a
    daemon's twistd tells it to whoever started it and removes its process id file.
    """

    def __init__(self, reason: object) -> None:
        super().__init__(f"restmq: {reason}")


#: Stands below the options in --help; in its own lines, which usage.Options would fill up.
MANUAL = """
RestMQ is a message broker: producers POST elements to queues over HTTP,
consumers GET them or stay connected and receive them as they come.

Without options it listens on http://127.0.0.1:8888. Try, in two terminals:

  $ curl http://localhost:8888/c/test
  $ curl -d 'value=my element' http://localhost:8888/q/test

A Redis that --redis names is waited for and never replaced. `embedded` runs one
in the data directory. `auto` takes the one at 127.0.0.1:6379 if one answers,
else embeds, and does the same ever after.

--listen 0.0.0.0 opens it to the network: write access rules first. They and
everything else are in restmq.conf, where each setting is explained.
"""


class Options(usage.Options):
    """What `twistd restmq` takes."""

    synopsis = "[options]"
    optParameters: ClassVar = [
        ["port", "p", None, "The port to listen on [8888]."],
        ["listen", "l", None, "An address, unix:PATH or a Twisted endpoint to listen on [127.0.0.1]."],
        ["config", "c", None, "The configuration file [restmq.conf beside the code, if it is there]."],
        ["redis", "r", None, "HOST:PORT, unix:PATH, embedded or auto [auto]."],
        ["data", "d", None, "The data directory [/var/lib/restmq for root, else ~/.local/share/restmq]."],
    ]

    optFlags: ClassVar = [
        ["shared", "s", "Refuse to start unless a Redis is named, as several instances need it."],
    ]

    def parseOptions(self, options: Any = None) -> None:
        """Refuse what is not known in one line; twistd itself would print all of its help."""
        try:
            usage.Options.parseOptions(self, options)
        except usage.UsageError as error:
            raise CannotStart(f"{error}; twistd restmq --help lists the options") from None

    def opt_version(self) -> None:
        """Print RestMQ's version and exit."""
        print(f"RestMQ {restmq.__version__}")
        sys.exit(0)

    def getUsage(self, width: int | None = None) -> str:
        """The options, then what to do with them."""
        return f"{usage.Options.getUsage(self, width)}{MANUAL}"

    def parseArgs(self, *words: str) -> None:
        if words:
            raise usage.UsageError(f"{words[0]!r} is no option")

    def settings(self) -> Config:
        """The configuration with these options on top. Raises ConfigError."""
        named = self["config"]
        beside = Path(__file__).resolve().parent.parent / "restmq.conf"
        path = Path(named) if named else beside if beside.is_file() else None
        return config.load(path, **{name: self[name] for name in ("port", "listen", "redis", "data")})


class RestMQ(Ordered):
    """The services of one process, under twistd: Redis if it runs its own, the broker, the port."""

    def __init__(self, observer: ILogObserver | None = None, daemon: bool = False) -> None:
        MultiService.__init__(self)
        self._observer = observer
        self._daemon = daemon

    def setServiceParent(self, parent: Any) -> None:
        """Take our place in twistd's application, and lay our log under it."""
        if self._observer is not None and isinstance(parent, Componentized):
            parent.setComponent(ILogObserver, self._observer)
        MultiService.setServiceParent(self, parent)

    def privilegedStartService(self) -> None:
        try:
            MultiService.privilegedStartService(self)
        except CannotListenError as error:
            where = f"{error.interface}:{error.port}" if error.interface else error.port
            reason = getattr(error.socketError, "strerror", None) or error.socketError
            raise self._refused(f"cannot listen on {where}: {reason}") from None
        except OSError as error:  # a unix socket's folder is missing, or not ours
            raise self._refused(f"cannot listen: {error}") from None

    def startService(self) -> None:
        try:
            MultiService.startService(self)
        except ConfigError as error:
            raise self._refused(error) from None

    def _refused(self, reason: object) -> CannotStart:
        if self._daemon:  # in the foreground, the line Python prints is enough
            _log.error("cannot start: {reason}", reason=reason)
        return CannotStart(reason)


def makeService(options: Options) -> MultiService:
    """All of RestMQ as one service, not started. Ends the process with one line if the configuration is wrong."""
    from restmq import broker  # late: twistd --help needs none of it

    twistd: Mapping[str, Any] = options.parent or {}
    if isinstance(sys.__stderr__, io.TextIOWrapper):  # PyPy's would keep what a daemon says last
        sys.__stderr__.reconfigure(line_buffering=True)
    try:
        wanted = options.settings()
        if options["shared"] and wanted.redis in ("auto", "embedded"):
            raise ConfigError(
                f"redis = {wanted.redis}: several instances, and one that init.d or systemd starts, need a Redis that "
                "all of them name: redis = HOST:PORT or unix:/PATH in [redis] of restmq.conf, or --redis"
            )
        if options["shared"] and isinstance(wanted.access_log, Path):  # or they would overwrite each other
            path = wanted.access_log
            wanted = replace(wanted, access_log=path.with_name(f"{path.stem}-{wanted.port}{path.suffix}"))
        _check_endpoint(wanted.endpoint)
        settings, before = embedded.prepare(wanted)
        main = RestMQ(_observer(twistd), not twistd.get("nodaemon", True))
        for service in (*before, *broker.services(settings)):
            service.setServiceParent(main)
    except ConfigError as error:
        raise CannotStart(error) from None
    _log.info("RestMQ {version} starts, with Redis at {redis}", version=restmq.__version__, redis=settings.redis)
    for note in settings.notes:
        _log.warn("{note}", note=note)
    return main


def _check_endpoint(description: str) -> None:
    """Refuse an endpoint that cannot be read, before Redis is started. Raises ConfigError."""
    from twisted.internet import reactor

    from restmq import tls

    tls.endpoint(description, reactor)


def _observer(twistd: Mapping[str, Any]) -> ILogObserver | None:
    """Our log where twistd's would have gone, unless it was told to use another."""
    if twistd.get("syslog") or twistd.get("logger"):
        return None
    path = twistd.get("logfile") or ("-" if twistd.get("nodaemon", True) else "twistd.log")
    try:
        return log.observer(path)
    except OSError as error:
        raise ConfigError(f"the log {path} cannot be opened: {error.strerror}") from None
