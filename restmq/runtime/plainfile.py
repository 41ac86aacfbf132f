"""Plain files, opened so that another thing in their place can do no harm.

The folder may belong to another user. A FIFO there would block its reader for ever, a device never ends, and a link may
point to where its maker cannot write. Knows nothing of what is in a file.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path

#: The most bytes of a file, unless the caller says another number.
MOST = 1 << 20


def opened(path: Path, flags: int, own: bool = False) -> int:
    """Open a plain file without waiting, and answer its descriptor (open(2)). A new file is readable by this user only.

    With `own` the file must belong to this user or root, have one name only, and be no link. Raises OSError with a text
    that says why not.
    """
    flags |= os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY | (os.O_NOFOLLOW if own else 0)
    try:
        number = os.open(path, flags, 0o600)
    except OSError as error:
        why = {errno.ELOOP: "it is a symbolic link", errno.ENXIO: "it is no plain file"}.get(error.errno or 0)
        raise (OSError(error.errno, why, str(path)) if why else error) from None
    why = _wrong(os.fstat(number), own)
    if why:
        os.close(number)
        raise OSError(errno.EPERM, why, str(path))
    return number


def _wrong(found: os.stat_result, own: bool) -> str:
    if not stat.S_ISREG(found.st_mode):
        return "it is no plain file"
    if own and not trusted(found):
        return "it belongs to another user"
    if own and found.st_nlink > 1:
        return "it has another name elsewhere"
    return ""


def trusted(found: os.stat_result) -> bool:
    """Whether a file belongs to this user or to root."""
    return found.st_uid in (os.geteuid(), 0)


def read(path: Path, most: int = MOST, own: bool = False) -> bytes:
    """Read all of a plain file. Raises OSError, also when it has more than `most` bytes."""
    with open(opened(path, os.O_RDONLY, own), "rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise OSError(errno.EFBIG, f"it has more than {most} bytes", str(path))
    return data


def write(path: Path, data: bytes) -> None:
    """Replace a file of this user, or another thing in its place. After a crash there is the old file or the new."""
    fresh = path.with_name(path.name + ".new")
    with suppress(FileNotFoundError):
        fresh.unlink()
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(fresh, flags, 0o600), "wb") as file:
        file.write(data)
    fresh.replace(path)


def appendable(path: Path) -> None:
    """Raise OSError unless a log may be written there: to a plain file, or to none yet.

    In a folder that others may write to, the file must be this user's own and no link.
    """
    folder = os.stat(path.parent)
    with suppress(FileNotFoundError):
        os.close(opened(path, os.O_RDWR, own=not trusted(folder) or bool(folder.st_mode & 0o002)))
