"""The form of restmq.conf and of the access file: sections, keys, and the line of each.

Owns reading such a file. An error names section, key, file and line, and the nearest name that is known. Knows no
section and no key by itself, and no network. access/acl.py and config.py say what may stand there: read them next.
"""

from __future__ import annotations

import configparser
import re
from pathlib import Path
from typing import NamedTuple

from restmq.runtime import plainfile

_HEADER = re.compile(r"\[(?P<name>.+)\]")
_KEY = re.compile(r"(?P<key>[^\s#;=:\[][^=:]*?)\s*[=:]")


class ConfigError(Exception):
    """An error in the configuration, in one line that says where. The text never has a password in it."""


class Entry(NamedTuple):
    """One value as it stands in the file, and its place: `file:line`."""

    text: str
    where: str


class Section(NamedTuple):
    """One section: its name, the place where it begins, and its keys in order."""

    name: str
    where: str
    keys: dict[str, Entry]


def read(path: Path) -> list[Section]:
    """Read the sections of a file, in its order. Raises ConfigError with file and line.

    An entry is `key = value` or `key: value`. A line that begins with # or ; is a comment. Only such a line is one, so
    a value may have both signs in it. Keys are compared in lower case.
    """
    try:
        text = plainfile.read(path).decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8: {error.reason} at byte {error.start}") from None
    # Without interpolation, a % in a password stays a %. Without a default section, [DEFAULT] is a section as any
    # other.
    parser = configparser.RawConfigParser(default_section="\0", interpolation=None)
    try:
        parser.read_string(text, str(path))
    except configparser.DuplicateSectionError as error:
        raise ConfigError(
            f"{path}:{error.lineno}: the section [{error.section}] stands there twice; "
            "an access section may be repeated with a label, as in [rest:producer orders]"
        ) from None
    except configparser.DuplicateOptionError as error:
        raise ConfigError(f"{path}:{error.lineno}: [{error.section}] {error.option} stands there twice") from None
    except configparser.MissingSectionHeaderError as error:
        raise ConfigError(
            f"{path}:{error.lineno}: this line stands before the first section, such as [server]"
        ) from None
    except configparser.ParsingError as error:
        raise ConfigError(f"{path}:{error.errors[0][0]}: this line is neither [section] nor key = value") from None
    lines = _lines(text)
    return [
        Section(
            name,
            f"{path}:{lines.get((name, ''), 0)}",
            {key: Entry(value, f"{path}:{lines.get((name, key), 0)}") for key, value in parser.items(name)},
        )
        for name in parser.sections()
    ]


def _lines(text: str) -> dict[tuple[str, str], int]:
    """The line of each section, with "" as its key, and of each key. configparser does not keep them."""
    found: dict[tuple[str, str], int] = {}
    section = ""
    for number, line in enumerate(text.splitlines(), 1):
        header = _HEADER.match(line.strip())
        key = _KEY.match(line)
        if header:
            section = header["name"]
            found[section, ""] = number
        elif key:
            found[section, key["key"].lower()] = number
    return found
