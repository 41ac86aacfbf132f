"""Raw requests on a connection, and what comes back."""

from __future__ import annotations

import re
import socket
import time

from tests.support.patience import PATIENCE

H = "Host: localhost\r\n"
OPEN, CLOSED = True, False
TEXT = "Content-Type: text/plain\r\n"


def talk(
    port: int, parts: list[bytes], half: bool = False, answers: int = 0, closes: bool = False
) -> tuple[list[int], bool, bytes]:
    """Send the parts; answers the statuses, whether the connection is still open, and all bytes.

    It listens until nothing came for a moment. However busy the machine is: so many `answers` are waited for, and the
    end of the connection if it `closes`, which it must when `half` of it is closed here.
    """
    end = time.monotonic() + PATIENCE
    with socket.create_connection(("127.0.0.1", port)) as link:
        got = b""
        try:
            for part in parts:
                link.sendall(part)
                if b"\r\nExpect: " in part:
                    link.settimeout(PATIENCE)
                    got += link.recv(65536)  # its 100 Continue; there is none for a body that is there already
                elif len(parts) > 1:
                    time.sleep(0.02)
            if half:
                link.shutdown(socket.SHUT_WR)
            while True:
                missing = closes or half or len(statuses(got)) < answers
                link.settimeout(max(0.1, end - time.monotonic()) if missing else 0.3)
                data = link.recv(65536)
                if not data:
                    return statuses(got), CLOSED, got
                got += data
        except socket.timeout:
            return statuses(got), OPEN, got
        except OSError:
            return statuses(got), CLOSED, got


def statuses(data: bytes) -> list[int]:
    """The status of every answer."""
    return [int(found) for found in re.findall(rb"HTTP/1\.[01] (\d{3}) ", data)]


def asking(queue: str, method: str, path: str, body: str) -> bytes:
    """A request as bytes."""
    path, body = path.replace("{}", queue), body.replace("{}", queue)
    return f"{method} {path} HTTP/1.1\r\n{H}{TEXT}Content-Length: {len(body)}\r\n\r\n{body}".encode()
