"""WebSocket frames, as a client reads and writes them (RFC 6455 section 5)."""

from __future__ import annotations

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


class Frames:
    """Reads what a server sends: messages, put together when they come in parts, and control frames."""

    def __init__(self) -> None:
        self._raw = b""
        self._kind, self._parts = 0, b""  # of a message that has begun

    def receive(self, data: bytes) -> list[tuple[int, bytes]]:
        """What is complete with these bytes: kind and content of each."""
        self._raw += data
        found, at = [], 0
        while len(self._raw) >= at + 2:
            first, length, begin = self._raw[at], self._raw[at + 1], at + 2
            assert not first & 0x70 and length < 128, "a server sets no bit that nobody agreed on, and masks nothing"
            if length > 125:
                begin += 2 if length == 126 else 8
                length = int.from_bytes(self._raw[at + 2 : begin], "big")
            if len(self._raw) < begin + length:
                break
            at = begin + length
            whole = self._whole(first & 0x0F, bool(first & 0x80), self._raw[begin:at])
            if whole is not None:
                found.append(whole)
        self._raw = self._raw[at:]
        return found

    def _whole(self, kind: int, last: bool, content: bytes) -> tuple[int, bytes] | None:
        if kind >= CLOSE:
            assert kind in (CLOSE, PING, PONG) and last and len(content) < 126
            return kind, content
        assert kind in ((TEXT, BINARY) if not self._kind else (0,)), f"a frame of kind {kind} within another message"
        self._kind, self._parts = self._kind or kind, self._parts + content
        if not last:
            return None
        whole = self._kind, self._parts
        self._kind, self._parts = 0, b""
        return whole


def frame(kind: int, content: bytes = b"") -> bytes:
    """A frame of a client, with a mask that changes nothing."""
    length = len(content)
    if length < 126:
        sizes = bytes([0x80 | length])
    elif length < 1 << 16:
        sizes = b"\xfe" + length.to_bytes(2, "big")
    else:
        sizes = b"\xff" + length.to_bytes(8, "big")
    return bytes([0x80 | kind]) + sizes + bytes(4) + content


def closing(content: bytes) -> tuple[int, str]:
    """Code and reason of a close frame; 1005 stands for none (section 7.4.1)."""
    return (int.from_bytes(content[:2], "big") if content else 1005), content[2:].decode("utf-8")
