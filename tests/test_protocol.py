"""The documents are executed: every $ line of protocol.txt and README.md must answer what stands below it."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.wire
ROOT = Path(__file__).resolve().parent.parent


def transcripts(text: str) -> list[tuple[int, str, list[str]]]:
    """The document's commands: line, command, the lines below it."""
    found: list[tuple[int, str, list[str]]] = []
    below = False
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("    $ "):
            found.append((number, line[6:], []))
            below = True
        elif below and line.startswith("    ") and line.strip():
            found[-1][2].append(line[4:])
        else:
            below = False
    return found


def fits(said: str, wanted: str) -> bool:
    """Whether what was said is what the document says; … stands for anything."""
    pattern = ".*".join(re.escape(part) for part in wanted.split("…"))
    return re.fullmatch(pattern, said, re.DOTALL) is not None


@pytest.mark.parametrize("document", ["docs/protocol.txt", "README.md"])
def test_every_transcript_of_the_document_is_true(start: Any, redis_server: Any, document: str) -> None:
    one = start(f"[redis]\ndbid = {8 if document == 'README.md' else 9}\n")
    runs = transcripts((ROOT / document).read_text("utf-8"))
    assert len(runs) > 5
    for number, command, wanted in runs:
        here = command.replace("localhost:8888", f"localhost:{one.port}").replace("curl ", "curl -s ")
        done = subprocess.run(["bash", "-c", here], capture_output=True, timeout=30, check=False)
        said = done.stdout.decode("utf-8").replace("\r\n", "\n").strip("\n")
        assert fits(said, "\n".join(wanted)), f"{document}:{number}: {command}\n{said}\n--- wanted\n" + "\n".join(
            wanted
        )
