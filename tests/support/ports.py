"""Ports that no other test and no other run of the tests uses."""

from __future__ import annotations

import functools
import itertools
import socket

#: Ports of one process of the tests. They lie below those that the kernel gives to outgoing connections: an instance
#: that takes seconds to start would find such a one taken by another test's client.
PORTS = 500


@functools.cache
def first_port() -> int:
    """The first of the ports that are this process's alone, so that two do not choose the same before either listens.

    A name among the sockets of this machine says who has them; it goes with the process, however that ends.
    """
    for first in range(10_000, 32_000, PORTS):
        name = socket.socket(socket.AF_UNIX)
        try:
            name.bind(f"\0restmq-tests-{first}")
        except OSError:
            name.close()  # another's
        else:
            _names.append(name)
            return first
    raise AssertionError("too many runs of the tests at once")


_names: list[socket.socket] = []
_ports = itertools.count()


def free_ports(count: int) -> int:
    """The first of so many ports in a row that nobody uses now, and that no other test was given lately."""
    for _ in range(PORTS):
        places = [next(_ports) % PORTS for _ in range(count)]
        if places[-1] - places[0] == count - 1 and all(unused(first_port() + place) for place in places):
            return first_port() + places[0]
    raise AssertionError("there are no free ports")


def unused(port: int) -> bool:
    """Whether nobody listens there, nor did a moment ago."""
    with socket.socket() as one:
        try:
            one.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def free_port() -> int:
    """A port nobody uses now."""
    return free_ports(1)
