"""The type of Twisted's reactor, as far as RestMQ's process uses it.

Owns only this type: Twisted's own reactor is a module to a type checker. Read broker.py next.
"""

from __future__ import annotations

from twisted.internet.interfaces import IReactorCore, IReactorFromThreads, IReactorTime


class Reactor(IReactorTime, IReactorCore, IReactorFromThreads):
    """A reactor that keeps time, runs and stops, and takes calls from signal handlers."""
