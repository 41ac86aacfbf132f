"""The name that was probably meant: the nearest of the known names.

Owns the only comparison of words by likeness. It costs much, so a word that is longer than any name is not compared.
Read model/options.py next.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

LONGEST = 64  # most characters of a word that may be a misspelt name


def hint(word: str, known: Iterable[str]) -> str:
    """Half a sentence after an unknown name: the nearest known name, or all of them if none is near."""
    names = list(known)
    meant = near(word, names)
    return f"did you mean {meant!r}?" if meant else "it knows " + (", ".join(names) or "none")


def near(word: str, known: Iterable[str]) -> str | None:
    """The nearest name, or None if none is near."""
    if len(word) > LONGEST:
        return None
    found = difflib.get_close_matches(word, list(known), 1, 0.5)
    return found[0] if found else None
