"""`twistd restmq`: the options of the command line, and the service that they make.

Owns what starts, in which order, and the message if it cannot. Does not know how anything is done. `twistd --help`
lists it by twisted/plugins/restmq_plugin.py. Read broker.py next: `broker.services` is started here.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Mapping, Sequence
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

    It is a SystemExit, so that Python prints it without a traceback. It is also an Exception, so that a daemon's
    twistd reports it to the process that started it, and removes its process id file.
    """

    def __init__(self, reason: object) -> None:
        super().__init__(f"restmq: {reason}")


#: Stands below the options in --help. usage.Options would fill its lines up.
MANUAL = """
RestMQ is a message broker: producers POST elements to queues over HTTP,
consumers GET them or stay connected and receive them as they come.

Without options it listens on http://127.0.0.1:8888. Try, in two terminals:

  $ curl http://localhost:8888/c/test
  $ curl -d 'value=my element' http://localhost:8888/q/test

RestMQ waits for a Redis that --redis names, and never replaces it. `embedded`
runs one in the data directory. `auto` takes the one at 127.0.0.1:6379 if it
answers, else embeds one. It remembers this choice.

--listen 0.0.0.0 opens RestMQ to the network: write access rules first. They and
all other settings stand in restmq.conf, which explains each of them.
"""


class Options(usage.Options):
    """The options of `twistd restmq`."""

    synopsis = "[options]"
    optParameters: ClassVar = [
        ["port", "p", None, "The port to listen on [8888]."],
        ["listen", "l", None, "An address, unix:PATH or a Twisted endpoint to listen on [127.0.0.1]."],
        ["config", "c", None, "The configuration file [restmq.conf beside the code, if it is there]."],
        ["redis", "r", None, "HOST:PORT, unix:PATH, embedded or auto [auto]."],
        ["data", "d", None, "The data directory [/var/lib/restmq for root, else ~/.local/share/restmq]."],
    ]

    optFlags: ClassVar = [
        ["shared", "s", "Refuse to start without a named Redis, which several instances need."],
    ]

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """Refuse an unknown option in one line. twistd itself would print all of its help."""
        try:
            usage.Options.parseOptions(self, options)
        except usage.UsageError as error:
            raise CannotStart(f"{error}; twistd restmq --help lists the options") from None

    def opt_version(self) -> None:
        """Print RestMQ's version and exit."""
        print(f"RestMQ {restmq.__version__}")
        sys.exit(0)

    def getUsage(self, width: int | None = None) -> str:
        """The options, and then the manual."""
        return f"{usage.Options.getUsage(self, width)}{MANUAL}"

    def parseArgs(self, *words: str) -> None:
        if words:
            raise usage.UsageError(f"{words[0]!r} is not an option")

    def config(self) -> Config:
        """The configuration, with these options in place of its own. Raises ConfigError."""
        named = self["config"]
        beside = Path(__file__).resolve().parent.parent / "restmq.conf"
        path = Path(named) if named else beside if beside.is_file() else None
        return config.load(path, **{name: self[name] for name in ("port", "listen", "redis", "data")})


class RestMQ(Ordered):
    """The services of one process, under twistd: Redis if RestMQ runs its own, the broker, the port."""

    def __init__(self, observer: ILogObserver | None = None, daemon: bool = False) -> None:
        MultiService.__init__(self)
        self._observer = observer
        self._daemon = daemon

    def setServiceParent(self, parent: Any) -> None:  # Any: of Twisted, a service collection or an application
        """Join twistd's application, and make our log its log."""
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
        except OSError as error:  # a unix socket's folder is missing, or belongs to another user
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

    twistd: Mapping[str, object] = options.parent or {}
    if isinstance(sys.__stderr__, io.TextIOWrapper):  # PyPy's would keep a daemon's last line
        sys.__stderr__.reconfigure(line_buffering=True)
    try:
        wanted = options.config()
        if options["shared"] and wanted.redis in ("auto", "embedded"):
            raise ConfigError(
                f"redis = {wanted.redis}: several instances, or one that init.d or systemd starts, need a named Redis: "
                "set redis = HOST:PORT or unix:/PATH in [redis] of restmq.conf, or use --redis"
            )
        if options["shared"] and isinstance(wanted.access_log, Path):  # each instance writes a file of its own
            path = wanted.access_log
            wanted = replace(wanted, access_log=path.with_name(f"{path.stem}-{wanted.port}{path.suffix}"))
        _check_endpoint(wanted.endpoint)
        prepared, before = embedded.prepare(wanted)
        main = RestMQ(_observer(twistd), not twistd.get("nodaemon", True))
        for service in (*before, *broker.services(prepared)):
            service.setServiceParent(main)
    except ConfigError as error:
        raise CannotStart(error) from None
    _log.info("RestMQ {version} starts, with Redis at {redis}", version=restmq.__version__, redis=prepared.redis)
    for note in prepared.notes:
        _log.warn("{note}", note=note)
    return main


def _check_endpoint(description: str) -> None:
    """Refuse an endpoint that cannot be read, before Redis is started. Raises ConfigError."""
    from twisted.internet import reactor

    from restmq import tls

    tls.endpoint(description, reactor)


def _observer(twistd: Mapping[str, object]) -> ILogObserver | None:
    """Our log in the place of twistd's, unless twistd has an option for another log."""
    if twistd.get("syslog") or twistd.get("logger"):
        return None
    path = str(twistd.get("logfile") or ("-" if twistd.get("nodaemon", True) else "twistd.log"))
    try:
        return log.observer(path)
    except OSError as error:
        raise ConfigError(f"the log {path} cannot be opened: {error.strerror}") from None
