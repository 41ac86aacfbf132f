"""Reads the transcripts of a document and plays them against a running instance.

Owns the form of a transcript, which docs/protocol.txt tells its readers at the
top, and comparing what comes with what stands there. Knows HTTP only so far as
a client must, and nothing of what the answers mean. test_protocol.py plays
docs/protocol.txt, test_readme.py plays README.md.
"""

from __future__ import annotations

import re
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from tests import ROOT
from tests.support.frames import CLOSE, PING, PONG, TEXT, Frames, closing, frame
from tests.support.patience import LONG, PATIENCE, until
from tests.support.requests import http_call

QUIET = 0.05  # seconds in which nothing more may come
CLOSES = "(closes)"
_MARKED = re.compile(r"(?:(\$) |([CS])(\d?):(?: |$))(.*)")
_LIVE = re.compile(r"curl (?!.*(?:-m|--max-time) ).*localhost:8888/(?:c|sse)/\S+$")
_WATCHED = re.compile(r'"consumers": [1-9]')
# As at a terminal: no progress, and every line at once.
_SHELL = 'curl() { command curl -sS -N "$@"; }\n'


class Step(NamedTuple):
    """What one party does. kind `$`: a command and what it prints; `C`: client `who` sends; `S`: it gets."""

    line: int
    kind: str
    who: str
    lines: list[str]


class Block(NamedTuple):
    """Steps that share their connections; `section` counts the headings before it."""

    section: int
    steps: list[Step]


def parse(text: str) -> list[Block]:
    """The transcripts of a document: indented by four, begun by a marked line, ended by an empty one."""
    blocks: list[Block] = []
    steps: list[Step] | None = None
    section, before = 0, ""
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("#") or (before and re.fullmatch(r"-+|=+", line)):
            section += 1
        before = line
        marked = _MARKED.match(line[4:]) if line.startswith("    ") else None
        if not line.startswith("    "):
            steps = None
        elif steps and steps[-1].kind == "$" and steps[-1].lines[-1].endswith("\\") and not marked:
            steps[-1].lines[-1] = steps[-1].lines[-1][:-1] + line.strip()
        elif marked:
            if steps is None:
                steps = []
                blocks.append(Block(section, steps))
            kind, who, rest = marked[1] or marked[2], marked[3] or "", marked[4]
            if kind != "$" and steps and steps[-1][1:3] == (kind, who):
                steps[-1].lines.append(rest)
            else:
                steps.append(Step(number, kind, who, [rest]))
        elif steps:
            assert steps[-1].kind == "$", f"line {number} belongs to nobody: {line}"
            steps[-1].lines.append(line[4:])
    return blocks


def fits(said: str, wanted: str) -> bool:
    """Whether text is what a document says: … stands for anything in its line, alone for any lines."""
    parts = []
    for line in wanted.split("\n"):
        if line == "…":
            parts.append(r"(?:[^\n]*\n)*?")
        else:
            parts.append("[^\n]*".join(re.escape(part) for part in line.split("…")) + "\n")
    return re.fullmatch("".join(parts), said + "\n") is not None


def same(said: str, wanted: str, where: str) -> None:
    """Assert that it fits."""
    assert fits(said, wanted), f"{where}\n--- it says\n{wanted}\n--- what came\n{said}"


class Link:
    """One client's connection: HTTP first, then perhaps a stream of lines or WebSocket messages."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        self._data = b""  # of the connection, not yet looked at
        self._text = b""  # of the stream, not yet looked at
        self._messages: list[str] = []
        self._methods: list[str] = []
        self._frames: Frames | None = None
        self._length = ""  # of the answer: "" not open, "chunked", "close", "ended"

    @property
    def streams(self) -> bool:
        """Whether a live consumer is on it."""
        return self._frames is not None or self._length in ("chunked", "close")

    def close(self) -> None:
        """Go."""
        self._socket.close()

    def send(self, lines: list[str]) -> None:
        """Send lines of HTTP as they stand, or each as a WebSocket message."""
        if lines == [CLOSES]:
            self.close()
        elif self._frames is not None:
            for line in lines:
                self._socket.sendall(frame(TEXT, line.encode("utf-8")))
        else:
            self._methods += [line.partition(" ")[0] for line in lines if re.search(r" HTTP/[12]\.[0-9]$", line)]
            end = "\r\n" if lines[-1] == "" else ""
            self._socket.sendall(("\r\n".join(lines) + end).encode("utf-8"))

    def get(self, lines: list[str], where: str) -> None:
        """Assert that this is what comes next."""
        lines = list(lines)
        while lines:
            if lines[0] == CLOSES:
                assert self._ended(), f"{where}: the server does not close"
                lines.pop(0)
            elif self.streams:
                wanted = lines.pop(0)
                same(self._line(), wanted, where)
            else:
                self._answer(lines, where)

    def quiet(self, where: str) -> None:
        """Assert that nothing more comes than the document says."""
        if not self.streams or self._socket.fileno() < 0:
            return
        self._socket.settimeout(QUIET)
        try:
            line = self._line()
        except socket.timeout:
            line = ""
        assert line == "", f"{where}: unannounced: {line}"

    # What comes

    def _more(self) -> None:
        data = self._socket.recv(1 << 16)
        if not data:
            raise EOFError("the server closed the connection")
        self._data += data

    def _until(self, end: bytes) -> bytes:
        while end not in self._data:
            self._more()
        found, _, self._data = self._data.partition(end)
        return found

    def _exactly(self, size: int) -> bytes:
        while len(self._data) < size:
            self._more()
        found, self._data = self._data[:size], self._data[size:]
        return found

    def _answer(self, lines: list[str], where: str) -> None:
        """One HTTP answer: its first line, the fields that are shown, and its body if a blank line is."""
        came = self._until(b"\r\n\r\n").decode("latin-1").split("\r\n")
        same(came[0], lines.pop(0), where)
        while lines and lines[0] not in ("", CLOSES) and not lines[0].startswith("HTTP/"):
            wanted = lines.pop(0)
            assert any(fits(field, wanted) for field in came[1:]), f"{where}: no field {wanted}\n" + "\n".join(came)
        fields = {name.lower(): value for name, _, value in (field.partition(": ") for field in came[1:])}
        shown = bool(lines) and lines.pop(0) == ""
        if came[0].split()[1] == "101":
            self._frames = Frames()
            self._received(self._data)
            return
        if "transfer-encoding" in fields or ("content-length" not in fields and came[0].split()[1] == "200"):
            self._length = "chunked" if "transfer-encoding" in fields else "close"
            return
        method = self._methods.pop(0)
        body = b"" if method == "HEAD" else self._exactly(int(fields.get("content-length", 0)))
        if not shown:
            return
        end = next((at for at, line in enumerate(lines) if line == CLOSES or line.startswith("HTTP/")), len(lines))
        said = body.decode("utf-8").replace("\r\n", "\n")
        same(said[:-1] if said.endswith("\n") else said, "\n".join(lines[:end]), where)
        del lines[:end]

    def _line(self) -> str:
        """The next line of the stream, or the next message."""
        if self._frames is not None:
            while not self._messages:
                data = self._socket.recv(1 << 16)
                if not data:
                    raise EOFError("the server closed the connection")
                self._received(data)
            return self._messages.pop(0)
        while b"\n" not in self._text:
            assert self._chunk(), "the stream ended"
        line, _, self._text = self._text.partition(b"\n")
        return line.decode("utf-8").rstrip("\r")

    def _chunk(self) -> bool:
        if self._length == "close":
            self._text += self._exactly(1)
            return True
        size = int(self._until(b"\r\n"), 16)
        self._text += self._exactly(size)
        self._until(b"\r\n")
        if not size:
            self._length = "ended"
        return bool(size)

    def _received(self, data: bytes) -> None:
        """Frames came: keep the messages and how it closes, answer the others."""
        assert self._frames is not None
        for kind, content in self._frames.receive(data):
            if kind == TEXT:
                self._messages.append(content.decode("utf-8"))
            elif kind == PING:
                self._socket.sendall(frame(PONG, content))
            elif kind == CLOSE:
                self._socket.sendall(frame(CLOSE, content))
                self._messages.append("(closes: {} {})".format(*closing(content)))

    def _ended(self) -> bool:
        try:
            if self._length == "chunked":
                assert not self._chunk(), "the stream goes on"
            self._more()
        except EOFError:
            return True
        return False


def ending(command: str) -> str:
    """What an answer ends in, by the rule of docs/protocol.txt: /queue and /stats with the brace."""
    return "" if re.search(r"localhost:8888/(queue|stats)\b", command) else "\r\n"


class Play:
    """Plays blocks against the instance at a port; closes what is open at its end.

    With `exact`, what a command prints is compared byte for byte; else CRLF is as good as LF.
    """

    def __init__(self, document: str, port: int, exact: bool = False) -> None:
        self.document, self.port, self.exact, self.section = document, port, exact, 0
        self._live: list[tuple[Step, subprocess.Popen[bytes], Path]] = []
        self._folder = tempfile.TemporaryDirectory()

    def __enter__(self) -> Play:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for _, process, _ in self._live:
            process.kill()
            process.wait(PATIENCE)
        self._folder.cleanup()

    def block(self, block: Block) -> None:
        """Play the steps in their order, then close the connections."""
        if block.section != self.section:
            self.finish()
            self.section = block.section
        links: dict[str, Link] = {}
        try:
            for step in block.steps:
                self.step(step, links)
            for link in links.values():
                link.quiet(self.where(block.steps[-1]))
        finally:
            streamed = any(link.streams for link in links.values())
            for link in links.values():
                link.close()
        if streamed:
            self._until_nobody_listens()

    def step(self, step: Step, links: dict[str, Link]) -> None:
        """One party's turn."""
        where = self.where(step)
        if step.kind == "$":
            if _LIVE.match(step.lines[0]):
                self._listen(step)
                return
            said = self.shell(step.lines[0])
            if self.exact:
                wanted = "\r\n".join(step.lines[1:]) + ending(step.lines[0])
                assert said == wanted.encode("utf-8"), f"{where}\n--- it says\n{wanted!r}\n--- what came\n{said!r}"
                return
            same(said.decode("utf-8").replace("\r\n", "\n").rstrip("\n"), "\n".join(step.lines[1:]), where)
            return
        if step.who not in links:
            links[step.who] = Link(self.port)
        try:
            if step.kind == "C":
                links[step.who].send(step.lines)
            else:
                links[step.who].get(step.lines, where)
        except (EOFError, OSError) as error:
            raise AssertionError(f"{where}: {error!r}") from error

    def where(self, step: Step) -> str:
        """For a person: which line of the document."""
        return f"{self.document}:{step.line}: {step.kind}{step.who} {step.lines[0]}"

    def shell(self, command: str) -> bytes:
        """Run a command as it stands, but for the port; answers what it prints."""
        done = subprocess.run(self._bash(command), capture_output=True, timeout=LONG, check=False, cwd=ROOT)
        assert not done.stderr, done.stderr.decode("utf-8", "replace")
        return done.stdout

    def finish(self) -> None:
        """The section is over: each live command must have printed what the document says; then end it."""
        for step, process, out in self._live:
            wanted = "\n".join(step.lines[1:])

            def came(out: Path = out) -> str:
                return out.read_text("utf-8").rstrip("\n")  # with LF for CRLF, as ever in Python's text files

            until(lambda came=came, wanted=wanted: fits(came(), wanted), came, PATIENCE)
            time.sleep(QUIET)
            same(came(), wanted, self.where(step))
            process.terminate()
            process.wait(PATIENCE)
        ended, self._live = self._live, []
        if ended:
            self._until_nobody_listens()

    def _bash(self, command: str) -> list[str | bytes]:
        text = _SHELL + command.replace("localhost:8888", f"localhost:{self.port}")
        return ["bash", "-c", text.encode("utf-8")]  # PyPy takes text for ASCII where no locale is set

    def _listen(self, step: Step) -> None:
        """A live command goes on while others run; it is there when its answer's head is."""
        place = Path(self._folder.name)
        head, out = place / f"{step.line}.head", place / f"{step.line}.out"
        command = step.lines[0].replace("curl ", f"curl -D {head} ", 1)
        with out.open("wb") as file:
            process = subprocess.Popen(self._bash(command.replace("curl", "exec curl -sS -N", 1)), stdout=file)
        self._live.append((step, process, out))
        until(lambda: head.exists() and head.stat().st_size > 0, lambda: self.where(step), PATIENCE)

    def _until_nobody_listens(self) -> None:
        """Who went is noticed a moment later; the next element must not go to it."""

        def stats() -> str:
            return http_call(self.port, "GET", "/stats/")[2].decode("utf-8")

        until(lambda: not _WATCHED.search(stats()), stats, PATIENCE)
