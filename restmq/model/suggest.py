"""Which name was probably meant: the nearest of those that are known.

Owns the one place that compares words by likeness, which is dear: a word that is
longer than any name is not compared. Read model/options.py next.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

LONGEST = 64  # characters of a word that may be a misspelt name


def hint(word: str, known: Iterable[str]) -> str:
    """The half sentence for who sent a name that is not known: the nearest that is, else all of them."""
    names = list(known)
    meant = near(word, names)
    return f"did you mean {meant!r}?" if meant else "it knows " + (", ".join(names) or "none")


def near(word: str, known: Iterable[str]) -> str | None:
    """The nearest name, None when none is near."""
    if len(word) > LONGEST:
        return None
    found = difflib.get_close_matches(word, list(known), 1, 0.5)
    return found[0] if found else None
