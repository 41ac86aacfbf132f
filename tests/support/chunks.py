"""The body of an answer in chunks, as it comes (RFC 9112 section 7.1)."""

from __future__ import annotations


class Chunks:
    """Takes a body out of its chunks, which may be cut anywhere on the way."""

    def __init__(self) -> None:
        self._raw = bytearray()
        self._left = 0  # bytes of the chunk that is being read, with the line end behind it
        self.count = 0  # of whole ones
        self.open = 0  # bytes of one that has not ended, which were answered already
        self.ended = False
        self.trailer = ""

    def receive(self, data: bytes) -> bytes:
        """What is of the body in these bytes and those before them, that was not answered yet."""
        self._raw += data
        body = bytearray()
        while not self.ended and self._part(body):
            pass
        return bytes(body)

    def _part(self, body: bytearray) -> bool:
        """Read on, to the end of something; False when that has not come."""
        if self._left > 2:
            part = self._raw[: self._left - 2]
            body += part
            del self._raw[: len(part)]
            self._left -= len(part)
            self.open += len(part)
            return self._left == 2
        if self._left:
            if len(self._raw) < 2:
                return False
            assert self._raw[:2] == b"\r\n", self._raw[:100]
            del self._raw[:2]
            self._left = self.open = 0
            self.count += 1
            return True
        end = self._raw.find(b"\r\n")
        if end < 0:
            return False
        if size := int(self._raw[:end], 16):
            del self._raw[: end + 2]
            self._left = size + 2
            return True
        trailer, blank, _ = self._raw[end:].partition(b"\r\n\r\n")  # a blank line is behind it
        if blank:
            self.trailer, self.ended = trailer.strip().decode("ascii"), True
        return False
