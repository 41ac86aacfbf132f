"""Files in a folder that somebody else owns: nothing waits, nothing is followed, nothing is read without end."""

from __future__ import annotations

import os
import re
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from restmq import embedded, log
from restmq.config import ConfigError
from restmq.data_directory import Directory
from restmq.http import accesslog
from restmq.model import ini
from restmq.runtime import plainfile
from tests import ROOT
from tests.support.patience import LONG
from tests.support.redis_server import RedisServer

pytestmark = pytest.mark.timeout(120)  # what waits here waits for ever
KINDS = ["fifo", "link", "dangling", "loop", "endless", "folder", "socket", "device", "sparse"]
NOBODY = 65534
WHY = "no plain file|symbolic link|No such file|[Dd]irectory|more than"


def put(kind: str, where: Path) -> None:
    """Something that is no plain file, or a very large one."""
    if kind == "fifo":
        os.mkfifo(where)
    elif kind == "link":
        (where.parent / "elsewhere").write_text("theirs\n")
        where.symlink_to(where.parent / "elsewhere")
    elif kind in ("dangling", "loop", "endless"):
        where.symlink_to({"dangling": "/nowhere/at/all", "loop": str(where), "endless": "/dev/zero"}[kind])
    elif kind == "folder":
        where.mkdir()
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(str(where))
    elif kind == "device":
        os.mknod(where, 0o600 | stat.S_IFCHR, os.makedev(1, 5))  # /dev/zero
    else:
        with where.open("wb") as file:
            file.truncate(1 << 30)


@pytest.mark.parametrize("kind", KINDS)
def test_only_a_plain_file_of_bounded_size_is_read(tmp_path: Path, kind: str) -> None:
    put(kind, tmp_path / "file")
    with pytest.raises(OSError, match=WHY):
        plainfile.read(tmp_path / "file", own=True)
    if kind != "link":  # which may be followed where the folder is this user's
        with pytest.raises(OSError, match=WHY):
            plainfile.read(tmp_path / "file")
    else:
        assert plainfile.read(tmp_path / "file") == b"theirs\n"


def test_what_belongs_to_another_or_has_another_name_is_not_this_user_s(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"x" * 10)
    assert plainfile.read(file, 10, own=True) == b"x" * 10
    with pytest.raises(OSError, match="more than 9 bytes"):
        plainfile.read(file, 9)
    os.link(file, tmp_path / "name")
    with pytest.raises(OSError, match="another name"):
        plainfile.read(file, own=True)
    (tmp_path / "name").unlink()
    os.chown(file, NOBODY, NOBODY)
    with pytest.raises(OSError, match="another user"):
        plainfile.read(file, own=True)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_takes_the_place_of_whatever_is_there(tmp_path: Path, kind: str) -> None:
    put(kind, tmp_path / "file.new")
    if kind == "folder":
        with pytest.raises(OSError, match=WHY):
            plainfile.write(tmp_path / "file", b"x")
        return
    plainfile.write(tmp_path / "file", b"x")
    assert (tmp_path / "file").read_bytes() == b"x" and not (tmp_path / "file").is_symlink()
    assert not (tmp_path / "elsewhere").exists() or (tmp_path / "elsewhere").read_text() == "theirs\n"


def open_access_log(path: Path) -> None:
    """As an instance does."""
    accesslog.AccessLogFile(path, 1000, 2).open()


@pytest.mark.parametrize("open_log", [open_access_log, lambda path: log.observer(str(path))], ids=["access", "log"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_log_is_opened_in_another_s_folder_only_when_it_is_plain_and_ours(
    tmp_path: Path, kind: str, open_log: Callable[[Path], object]
) -> None:
    folder = tmp_path / "theirs"
    folder.mkdir()
    put(kind, folder / "log")
    os.chown(folder, NOBODY, NOBODY)
    if kind == "sparse":  # as large as it may be, it is a log
        open_log(folder / "log")
        return
    with pytest.raises(OSError, match=WHY):
        open_log(folder / "log")
    assert not (folder / "elsewhere").exists() or (folder / "elsewhere").read_text() == "theirs\n"


def test_a_link_to_a_log_in_ones_own_folder_is_followed(tmp_path: Path) -> None:
    put("link", tmp_path / "log")
    open_access_log(tmp_path / "log")


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "link"])
def test_a_configuration_that_is_no_plain_file_is_refused_in_one_line(tmp_path: Path, kind: str) -> None:
    put(kind, tmp_path / "restmq.conf")
    with pytest.raises(ConfigError, match=r"restmq\.conf: cannot be read: "):
        ini.read(tmp_path / "restmq.conf")


# -- the data directory


@pytest.mark.parametrize("name", ["lock", "choice", "server", "socket"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_data_directory_that_holds_something_else_is_refused_and_says_what_to_do(
    tmp_path: Path, name: str, kind: str
) -> None:
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    put(kind, data / name)

    def use() -> None:
        directory = Directory(data)
        directory.startService()
        directory.recall(name)
        directory.stopService()

    if (name, kind) == ("lock", "sparse"):
        use()  # it is a lock, and gets a process id in place of all that
        return
    with pytest.raises(ConfigError, match="--data"):
        use()
    assert not (data / "elsewhere").exists() or (data / "elsewhere").read_text() == "theirs\n"


@pytest.mark.parametrize("name", ["choice", "redis.log", "appendonlydir", "server"])
def test_what_others_have_put_into_a_directory_that_was_open_is_not_used(tmp_path: Path, name: str) -> None:
    data = tmp_path / "data"
    data.mkdir(mode=0o777)
    data.chmod(0o777)
    (data / "lock").touch()
    (data / name).symlink_to("/etc/passwd")
    os.lchown(data / name, NOBODY, NOBODY)
    with pytest.raises(ConfigError, match=f"{name} belongs to another user: remove it"):
        Directory(data)
    assert stat.S_IMODE(data.stat().st_mode) == 0o700
    (data / name).unlink()
    Directory(data).stopService()


@pytest.mark.parametrize("text", ["0", "-1", "1", "9" * 30, "x"])
def test_a_process_id_that_is_none_of_ours_ends_nobody(tmp_path: Path, text: str) -> None:
    data = tmp_path / "data"
    directory = Directory(data)
    (data / "redis.pid").write_text(text)
    redis = embedded.Embedded(directory, "no", 1)
    assert redis._written_down() is None
    for kind in KINDS:
        (data / "redis.pid").unlink() if not (data / "redis.pid").is_dir() else (data / "redis.pid").rmdir()
        put(kind, data / "redis.pid")
        assert redis._written_down() is None
    directory.stopService()


LIAR = """
import os, socket, sys
with socket.socket(socket.AF_UNIX) as one:
    one.bind(sys.argv[1])
    one.listen()
    print(flush=True)
    while True:
        link, _ = one.accept()
        try:
            link.sendall(b"process_id:1\\r\\n\\n" if sys.argv[2] == "lies" else b"x" * 10_000_000)
            link.recv(100)
        except OSError:
            pass
        link.close()
"""


@pytest.mark.parametrize("how", ["lies", "floods"])
def test_a_redis_that_names_another_process_than_the_kernel_does_is_not_believed(tmp_path: Path, how: str) -> None:
    where = tmp_path / "redis.sock"
    with subprocess.Popen([sys.executable, "-c", LIAR, str(where), how], stdout=subprocess.PIPE) as other:
        try:
            assert other.stdout is not None and other.stdout.readline()
            assert embedded._process_of(where) is None
        finally:
            other.kill()


def test_a_real_redis_is_known_by_its_process(redis_server: RedisServer) -> None:
    assert embedded._process_of(redis_server.socket) == redis_server.process.pid


@pytest.mark.parametrize("option", ["--config", "--logfile"])
def test_a_start_tells_in_one_line_what_lies_there(tmp_path: Path, option: str) -> None:
    os.mkfifo(tmp_path / "file")
    twistd, ours = ("--logfile", str(tmp_path / "file")), ("--config", str(tmp_path / "file"))
    words = [*(twistd if option == "--logfile" else ()), "restmq", *(ours if option == "--config" else ())]
    done = subprocess.run(
        [sys.executable, "-c", "from twisted.scripts.twistd import run; run()", "-n", "--pidfile=", *words,
         "--data", str(tmp_path / "data"), "--redis", "127.0.0.1:1"],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=LONG, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("restmq: "))
    assert re.search("(cannot be read|cannot be opened): it is no plain file", line), line
    assert "Traceback" not in done.stderr


def test_what_is_no_file_is_no_static_page(tmp_path: Path) -> None:
    from restmq.api.frontend import Frontend
    from restmq.model.errors import NotFound

    pages = Frontend(ROOT / "frontend", static=tmp_path)
    for kind in KINDS:
        put(kind, tmp_path / f"{kind}.css")
        if kind != "link":
            with pytest.raises(NotFound):
                pages.file(f"{kind}.css")
    assert pages.file("link.css").body == b"theirs\n"
