"""The WebSocket's handshake, and the frames that a server sends (RFC 6455).

Owns their bytes. A server's frames are not masked (section 5.1), so one frame serves all consumers of a queue. Knows no
consumer and no command. live/websocket.py uses it: read that next.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import struct
from collections.abc import Mapping

from restmq.http.negotiation import listed
from restmq.model.errors import BadRequest, UpgradeRequired

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # section 1.3
TEXT, CLOSE, PING, PONG = 0x81, 0x88, 0x89, 0x8A  # the first byte of a whole frame, section 5.2
NO_CODE = 1005  # a Close frame came without a code, section 7.4.1
GOING_AWAY, UNSUPPORTED, POLICY, TOO_BIG, BROKEN = 1001, 1003, 1008, 1009, 1011


def to_frame(kind: int, payload: bytes) -> bytes:
    """One whole frame as a server sends it (RFC 6455 section 5.2)."""
    size = len(payload)
    if size < 126:
        return b"%c%c%b" % (kind, size, payload)
    if size < 1 << 16:
        return b"%c\x7e%b%b" % (kind, struct.pack("!H", size), payload)
    return b"%c\x7f%b%b" % (kind, struct.pack("!Q", size), payload)


def close_frame(code: int, why: str = "") -> bytes:
    """A Close frame. The reason is cut to what a control frame can hold (section 5.5)."""
    if code == NO_CODE:
        return to_frame(CLOSE, b"")
    reason = why.encode("utf-8")[:123].decode("utf-8", "ignore").encode("utf-8")
    return to_frame(CLOSE, struct.pack("!H", code) + reason)


def accept(key: bytes) -> bytes:
    """The answer to Sec-WebSocket-Key (section 4.2.2)."""
    return base64.b64encode(hashlib.sha1(key + GUID).digest())


def check_handshake(version: str, fields: Mapping[bytes, bytes]) -> bytes:
    """Check a client's opening handshake (section 4.2.1), and return its Sec-WebSocket-Key.

    Raises UpgradeRequired for a request that is not a handshake, or is of another version than 13. Raises BadRequest
    for a malformed handshake.
    """
    if not (listed(fields.get(b"upgrade", b""), b"websocket") and listed(fields.get(b"connection", b""), b"upgrade")):
        raise UpgradeRequired(
            "this address speaks WebSocket: send Connection: Upgrade and Upgrade: websocket "
            "(Nginx passes them on only with proxy_http_version 1.1 and proxy_set_header for both)"
        )
    if version != "HTTP/1.1":
        raise BadRequest("a WebSocket handshake must be an HTTP/1.1 request")
    if fields.get(b"sec-websocket-version", b"").strip() != b"13":
        raise UpgradeRequired("Sec-WebSocket-Version must be 13")
    key = fields.get(b"sec-websocket-key", b"").strip()
    try:
        nonce = base64.b64decode(key, validate=True)
    except binascii.Error:
        nonce = b""
    if len(nonce) != 16:
        raise BadRequest("Sec-WebSocket-Key must be 16 bytes in base64")
    return key
