"""The init.d scripts, the systemd units and docs/operations.md: what an administrator does, done."""

from __future__ import annotations

import os
import pwd
import re
import resource
import shutil
import signal
import socket
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from restmq.config import Config
from restmq.model import options
from tests import ROOT
from tests.support.patience import LONG, PATIENCE, until
from tests.support.requests import http_call
from tests.support.site import Site, deployed, environment
from tests.support.transcripts import Play, parse, same

SCRIPTS = ROOT / "scripts"


@pytest.fixture(scope="module")
def made() -> Iterator[Site]:
    """A deployment of three instances, none of which runs."""
    with deployed(3) as site:
        yield site


@pytest.fixture
def site(made: Site) -> Site:
    """The same, whatever the test before left: none runs."""
    code, said = made.script("stop")
    assert code == 0, said
    return made


@pytest.fixture
def running(made: Site) -> Site:
    """The same, all of them running: who has them run at its end lets the next begin with them."""
    made.start()
    return made


def alive(process: int) -> bool:
    """Whether it runs: one that has ended may wait for its parent to take notice, without a command line."""
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes() != b""
    except OSError:
        return False


def owner(process: int) -> tuple[set[str], set[str]]:
    """The user ids and group ids a process has, all of them."""
    status = Path(f"/proc/{process}/status").read_text()
    found = dict(line.split(":", 1) for line in status.splitlines())
    return set(found["Uid"].split()), {*found["Gid"].split(), *found["Groups"].split()}


def test_init_d_starts_tells_restarts_and_stops_all_instances(site: Site) -> None:
    code, said = site.script("status")
    assert code == 3 and said.count("does not run") == 3
    site.start()
    code, said = site.script("status")
    assert code == 0 and said.count("runs, as process") == 3
    first = site.processes()
    assert set(first) == set(site.ports)
    code, said = site.script("start")
    assert code == 0 and said.count("runs already") == 3
    assert site.processes() == first
    code, said = site.script("restart")
    assert code == 0, said
    second = site.processes()
    assert set(second) == set(first) and not set(second.values()) & set(first.values())
    for process in first.values():
        assert not alive(process)
    code, said = site.script("stop")
    assert code == 0 and said.count("ended") == 3
    assert site.script("status")[0] == 3
    assert list((site.folder / "run").iterdir()) == []
    for process in second.values():
        assert not alive(process)
    for port in site.ports:
        with socket.socket() as link:
            assert link.connect_ex(("127.0.0.1", port)) != 0
    assert "Traceback" not in site.logs()
    assert site.script("stop")[0] == 0


def test_of_two_starts_at_once_the_second_finds_what_the_first_has_started(site: Site) -> None:
    site.script("status")  # writes the defaults
    command = [str(site.place / "scripts" / "restmq-multi.init"), "start"]
    surroundings = {"RESTMQ_DEFAULTS": str(site.folder / "default"), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    with (site.folder / "one").open("wb") as one, (site.folder / "other").open("wb") as other:
        both = [subprocess.Popen(command, env=surroundings, stdout=out, stderr=out) for out in (one, other)]
        assert [process.wait(LONG) for process in both] == [0, 0]
    said = (site.folder / "one").read_text() + (site.folder / "other").read_text()
    assert (said.count("started, as process"), said.count("runs already")) == (3, 3)
    assert set(site.processes()) == set(site.ports)
    code, said = site.script("stop")
    assert code == 0 and said.count("ended") == 3


def allowed_cores(process: int | str = "self") -> set[int]:
    """The cores that a process may run on; PyPy 3.9 has no os.sched_getaffinity."""
    status = Path(f"/proc/{process}/status").read_text()
    words = re.search(r"^Cpus_allowed_list:\s*(\S+)$", status, re.MULTILINE)
    assert words
    ends = [[int(end) for end in part.split("-")] for part in words[1].split(",")]
    return {core for part in ends for core in range(part[0], part[-1] + 1)}


# -- while all of them run


@contextmanager
def holding(file: Path, *before: str) -> Iterator[None]:
    """Somebody has a lock on it."""
    command = [*before, "flock", str(file), "sh", "-c", "echo locked; exec sleep infinity"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as other:
        assert other.stdout is not None
        try:
            assert other.stdout.readline() == "locked\n"
            yield
        finally:
            os.killpg(other.pid, signal.SIGKILL)


def test_instances_run_as_their_user_only_each_on_its_core_with_its_log(running: Site) -> None:
    passwd = subprocess.run(["id", "-u", running.user], capture_output=True, text=True, check=True).stdout.strip()
    group = subprocess.run(["id", "-g", running.user], capture_output=True, text=True, check=True).stdout.strip()
    cores = sorted(allowed_cores())
    for number, port in enumerate(running.ports):
        process = running.processes()[port]
        assert owner(process) == ({passwd}, {group})
        assert allowed_cores(process) == {cores[number % len(cores)]}
        log = running.folder / "logs" / f"{port}.log"
        assert log.owner() == running.user and f":{port}/" in log.read_text()
        assert "Linux" not in log.read_text() and http_call(port, "GET", "/healthz")[0] == 200
    assert list(Path("/").glob("twistd*")) == list(running.place.glob("twistd*")) == []


def test_a_user_of_the_machine_may_ask_for_the_status(running: Site) -> None:
    command = [str(running.place / "scripts" / "restmq-multi.init"), "status"]
    done = subprocess.run(
        ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", *command],
        env={"RESTMQ_DEFAULTS": str(running.folder / "default")}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    done = subprocess.run(
        ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", command[0], "start"],
        env={"RESTMQ_DEFAULTS": str(running.folder / "default")}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 4 and "only root" in done.stderr


@pytest.mark.rare
def test_a_rolling_restart_asks_at_the_address_that_it_is_told(running: Site) -> None:
    code, said = running.script("rolling", HOST="127.0.0.2", READY="1")
    assert code == 1 and "is not ready after 1 s, asked at 127.0.0.2" in said and "HOST in" in said
    assert running.script("rolling")[0] == 0


def test_an_instance_that_died_is_told_and_started_again(running: Site) -> None:
    process = running.processes()[running.ports[1]]
    os.kill(process, signal.SIGKILL)
    until(lambda: running.script("status")[0] == 1)
    assert f"{running.ports[1]} died" in running.script("status")[1]
    code, said = running.script("start")
    assert code == 0 and "had died" in said and said.count("runs already") == 2
    assert running.script("status")[0] == 0


def test_a_restart_that_cannot_begin_ends_nobody(running: Site) -> None:
    before = running.processes()
    code, said = running.script("restart", PYTHON="/nowhere/python3")
    assert code == 1 and "there is no /nowhere/python3" in said
    assert running.processes() == before and running.script("status")[0] == 0


@pytest.mark.rare
def test_who_finds_another_at_work_waits_and_says_so_when_that_is_too_long(running: Site) -> None:
    before = running.processes()
    with holding(running.folder / "lock"):
        answers = [running.script(verb, PATIENCE="1") for verb in ("start", "stop", "restart", "rolling")]
    for code, said in answers:
        assert code == 1 and "somebody else has been starting or stopping for 1 s" in said
    assert running.processes() == before


def test_root_runs_nothing_from_a_folder_in_which_the_user_may_write(running: Site, tmp_path: Path) -> None:
    before = running.processes()
    place = running.folder / "theirs"
    place.mkdir()
    shutil.chown(place, running.user, running.user)
    for verb in ("start", "restart", "rolling"):
        code, said = running.script(verb, RESTMQ_ENV=str(place))
        assert code == 6 and f"root would run what lies in {place}" in said
    assert list(place.iterdir()) == [] and running.processes() == before


def test_stop_kills_what_does_not_end(running: Site) -> None:
    process = running.processes()[running.first]
    os.kill(process, signal.SIGSTOP)
    code, said = running.script("stop", ENDING="1")
    assert code == 0 and f"killing process {process}" in said
    assert not alive(process)
    assert running.processes() == {}


def test_fewer_instances_than_before_are_stopped_all_the_same(running: Site) -> None:
    assert running.script("status", INSTANCES="1")[0] == 0
    assert running.script("stop", INSTANCES="1")[1].count("ended") == 3


def test_rolling_with_fewer_instances_ends_those_that_are_too_many_when_the_others_are_ready(running: Site) -> None:
    before = running.processes()
    code, said = running.script("rolling", INSTANCES="1")
    assert code == 0 and said.count("is ready") == 1, said
    for port in running.ports[1:]:
        assert said.index("is ready") < said.index(f"{port} is more than INSTANCES") < said.index(f"{port} ended")
        assert not alive(before[port])
    assert list(running.processes()) == [running.first]


@pytest.mark.rare
def test_a_user_of_the_machine_cannot_keep_root_from_starting_and_stopping(running: Site) -> None:
    nobody = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]
    with holding(running.folder / "run", *nobody):
        code, said = running.script("stop", PATIENCE="1")
    assert code == 0 and said.count("ended") == 3, said
    assert (running.folder / "lock").stat().st_mode & 0o077 == 0  # nobody else may open it


def test_one_odd_pid_file_keeps_none_of_the_others_from_its_end(running: Site) -> None:
    odd = running.folder / "run" / f"{running.first}.pid"
    process = int(odd.read_text())
    odd.unlink()
    put("fifo", odd, running.user)
    code, said = running.script("stop")
    assert code == 4 and said.count("ended") == 2
    odd.unlink()
    odd.write_text(str(process))
    assert running.script("stop")[0] == 0


def test_rolling_replaces_each_and_stops_at_one_that_does_not_come_back(running: Site) -> None:
    first = running.processes()
    code, said = running.script("rolling")
    assert code == 0 and said.count("is ready") == 3
    second = running.processes()
    assert not set(second.values()) & set(first.values())
    assert running.script("force-reload")[0] == 0
    third = running.processes()
    kept = running.conf.read_text()
    running.configure("[server]\nprot = 1\n")
    code, said = running.script("rolling")
    running.configure(kept)
    assert code == 1 and "did you mean 'port'?" in said
    left = running.processes()
    assert left == {port: third[port] for port in running.ports[1:]}


# -- from none on


def test_a_pid_file_that_names_somebody_else_s_process_harms_nobody(site: Site) -> None:
    other = subprocess.Popen(["sleep", "infinity"])
    try:
        site.script("start", many=False)
        site.script("stop", many=False)
        stale = site.folder / "run" / f"{site.first}.pid"
        stale.write_text(str(other.pid))
        assert site.script("status", many=False)[0] == 1
        assert site.script("stop", many=False)[0] == 0
        assert other.poll() is None and not stale.exists()
        stale.write_text(str(other.pid))
        code, said = site.script("start", many=False)
        assert code == 0 and "started" in said and site.processes()[site.first] != other.pid
    finally:
        other.kill()
        other.wait(PATIENCE)


def test_one_instance_is_not_pinned_and_leaves_the_others_ports_alone(site: Site) -> None:
    code, said = site.script("start", many=False)
    assert code == 0, said
    assert list(site.processes()) == [site.first]
    assert allowed_cores(site.processes()[site.first]) == allowed_cores()
    assert site.script("status", many=False)[0] == 0
    assert site.script("status")[0] == 3


def test_an_instance_that_cannot_start_keeps_none_of_the_others_from_it(site: Site) -> None:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", site.first))
        taken.listen()
        code, said = site.script("start")
    assert code == 1 and f"cannot listen on 127.0.0.1:{site.first}" in said + site.logs(), said
    assert said.rstrip().endswith(f"not started: {site.first}") and said.count("started, as process") == 2
    assert set(site.processes()) == set(site.ports[1:])


def test_an_instance_may_open_as_many_files_as_the_system_lets_it(site: Site) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lower = min(256, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lower, hard))
    try:
        code, said = site.script("start", many=False)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert code == 0, said
    limits = Path(f"/proc/{site.processes()[site.first]}/limits").read_text()
    found = re.search(r"^Max open files +(\d+) +(\d+)", limits, re.M)
    assert found and (int(found[1]), int(found[2])) == (hard, hard) and hard > lower


@pytest.mark.parametrize("word", ["auto", pytest.param("embedded", marks=pytest.mark.rare)])
def test_a_redis_that_is_not_named_is_refused(site: Site, word: str) -> None:
    code, said = site.script("start", REDIS=word)
    assert code == 1
    assert f"redis = {word}: several instances" in said and "HOST:PORT" in said and "did not start" in said
    assert "Traceback" not in said
    assert site.processes() == {}


def test_what_is_missing_is_named(site: Site) -> None:
    code, said = site.script("start", USER="nobodyknows", GROUP="nobodyknows")
    assert code == 6 and "useradd --system" in said
    code, said = site.script("start", LOGS="/var/log")
    assert code == 6 and "/var/log does not belong to" in said
    code, said = site.script("start", PLACE="/nowhere")
    assert code == 5 and "RestMQ is not in /nowhere" in said
    code, said = site.script("fly")
    assert code == 2 and "usage: " in said
    link = site.folder / "logs" / f"{site.first}.log"
    kept = link.with_suffix(".kept")
    link.rename(kept)
    link.symlink_to("/etc/passwd")
    code, said = site.script("start")
    link.unlink()
    kept.rename(link)
    assert code == 4 and f"{site.user} cannot write {link}, or it is no plain file" in said


# -- what USER puts where root looks


def put(kind: str, where: Path, user: str) -> None:
    """Something that is no pid file, of this user."""
    if kind == "fifo":
        os.mkfifo(where)
    elif kind == "link":
        where.symlink_to("/etc/debian_version")
    elif kind == "dangling":
        where.symlink_to("/nowhere")
    elif kind == "loop":
        where.symlink_to(where)
    elif kind == "endless":
        where.symlink_to("/dev/zero")
    elif kind == "folder":
        where.mkdir()
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(str(where))
    elif kind == "device":
        os.mknod(where, 0o666 | stat.S_IFCHR, os.makedev(1, 5))  # /dev/zero
    elif kind == "sparse":
        with where.open("wb") as file:
            file.truncate(1 << 30)
    else:
        where.write_text(TEXTS[kind])
    shutil.chown(where, user, user) if not where.is_symlink() else os.lchown(where, *ids(user))


#: Process ids that are none, and some that are somebody else's.
TEXTS = {"zero": "0", "all": "-1", "huge": "9" * 40, "init": "1", "octal": "01", "lines": "1\n2", "words": "$(reboot)"}
PLAIN = ["sparse", *TEXTS]
ODD = ["fifo", "link", "dangling", "loop", "endless", "folder", "socket", "device"]
#: What `scripts/test --all` tries besides.
SELDOM = ["dangling", "loop", "socket", "device"]


def ids(user: str) -> tuple[int, int]:
    """Its user id and group id."""
    found = pwd.getpwnam(user)
    return found.pw_uid, found.pw_gid


@pytest.fixture
def hostile(site: Site) -> Iterator[Path]:
    """Where a pid file is expected; what the test puts there is removed."""
    for name in ("run", "logs"):  # as the first start makes them
        if not (site.folder / name).exists():
            (site.folder / name).mkdir()
            shutil.chown(site.folder / name, site.user, site.user)
    where = site.folder / "run" / f"{site.first}.pid"
    yield where
    if where.is_dir() and not where.is_symlink():
        where.rmdir()
    else:
        where.unlink(missing_ok=True)


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[pytest.mark.rare] * (kind in SELDOM)) for kind in [*ODD, *PLAIN]]
)
def test_root_reads_what_stands_for_a_pid_file_as_hostile(site: Site, hostile: Path, kind: str) -> None:
    linked = Path("/etc/debian_version")  # of which nobody else changes anything meanwhile, as of the list of users
    before = linked.read_bytes(), *linked.stat()[:6]  # but for the time at which it was read
    put(kind, hostile, site.user)
    code, said = site.script("status", many=False)
    assert code == (1 if kind in PLAIN else 4), said
    assert ("its pid file is there" if kind in PLAIN else "cannot read") in said
    code, said = site.script("stop", many=False)
    if kind in PLAIN:
        assert code == 0 and "had died; removed" in said and not hostile.exists()
        return
    assert code == 4 and f"cannot read, or remove, the pid files in {hostile.parent} of: {site.first}" in said
    code, said = site.script("start", many=False)  # what is in the way is removed, as USER could do it
    if kind == "folder":
        assert code == 4 and f"cannot remove {hostile}" in said and hostile.is_dir()
        return
    assert code == 0 and "started, as process" in said, said
    assert not hostile.is_symlink() and hostile.read_text().isdigit()
    assert site.script("stop", many=False)[0] == 0
    assert (linked.read_bytes(), *linked.stat()[:6]) == before


@pytest.mark.parametrize("kind", ["fifo", "read fifo", "link", "endless", "folder", "socket"])
def test_a_log_that_is_no_plain_file_keeps_root_waiting_for_nothing(site: Site, hostile: Path, kind: str) -> None:
    log = site.folder / "logs" / f"{site.first}.log"
    log.unlink(missing_ok=True)
    put(kind.rpartition(" ")[2], log, site.user)
    reader = os.open(log, os.O_RDONLY | os.O_NONBLOCK) if kind == "read fifo" else None
    try:
        code, said = site.script("start", many=False)
    finally:
        if reader is not None:
            os.close(reader)
        log.rmdir() if kind == "folder" else log.unlink()
    assert code == 4 and f"{site.user} cannot write {log}, or it is no plain file" in said


def test_names_in_the_run_folder_are_no_more_than_ports(site: Site, hostile: Path) -> None:
    names = ["1\n2", "$(id)", "-1", "0", "007", "999999", "1 2", "", "*", "1;id"]
    names = [f"{name}.pid" for name in names]
    for name in names:
        put("zero", hostile.parent / name, site.user)
    try:
        code, said = site.script("status")
        assert code == 3 and len(said.splitlines()) == 3 == said.count("does not run")
        assert site.script("stop")[1].count("does not run") == 3
        assert all((hostile.parent / name).exists() for name in names)
    finally:
        for name in names:
            (hostile.parent / name).unlink(missing_ok=True)


def test_a_folder_that_is_a_link_is_refused(site: Site, tmp_path: Path) -> None:
    for name in ("RUN", "LOGS"):
        link = site.folder / "link"
        link.symlink_to("/etc")
        os.lchown(link, *ids(site.user))
        for verb in ("start", "stop", "status")[: 3 if name == "RUN" else 1]:
            code, said = site.script(verb, True, **{name: f"{link}/"})
            assert code == 6 and f"{link} is a symbolic link" in said, (verb, said)
        link.unlink()


def test_a_process_of_the_user_that_only_looks_like_it_is_ended_as_the_user(site: Site, hostile: Path) -> None:
    """USER may have root end a process of USER; it gains nothing by that."""
    words = f"twistd restmq --port {site.first} "
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(1000)"
    fake = subprocess.Popen(
        ["setpriv", f"--reuid={site.user}", f"--regid={site.user}", "--clear-groups",
         "/usr/bin/python3", "-c", code, words],
        stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert fake.stdout is not None and fake.stdout.readline()
        hostile.write_text(str(fake.pid))
        assert site.script("status", many=False)[0] == 0
        answered, said = site.script("stop", many=False, ENDING="1")
        assert answered == 0 and f"killing process {fake.pid}" in said
        assert fake.wait(PATIENCE) == -signal.SIGKILL
    finally:
        fake.kill()
        fake.wait(PATIENCE)
        assert fake.stdout is not None
        fake.stdout.close()


STOPS = """
import os, signal, time
print(flush=True)
while True:
    try:
        os.kill(-1, signal.SIGSTOP)  # every process of this user but this one
    except ProcessLookupError:
        pass
    time.sleep(0.001)
"""


def test_a_user_that_stops_what_root_runs_as_it_keeps_root_for_seconds_only(site: Site, hostile: Path) -> None:
    put("zero", hostile, site.user)
    become = ["setpriv", f"--reuid={site.user}", f"--regid={site.user}", "--clear-groups"]
    command = [*become, "/usr/bin/python3", "-c", STOPS]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as other:
        try:
            assert other.stdout is not None and other.stdout.readline()
            code, said = site.script("stop", many=False)
        finally:
            other.kill()
    assert (code == 4 and "cannot read, or remove, the pid files" in said) or "removed its pid file" in said


def test_instances_on_unix_sockets(site: Site) -> None:
    sockets = site.folder / "sockets"
    sockets.mkdir(exist_ok=True)
    shutil.chown(sockets, site.user, site.user)
    code, said = site.script("rolling", SOCKETS=str(sockets))
    assert code == 0 and said.count("is ready") == 3, said + site.logs()
    with socket.socket(socket.AF_UNIX) as link:
        link.connect(str(sockets / f"{site.first}.sock"))
        link.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
        assert link.recv(1000).startswith(b"HTTP/1.1 200")
    site.script("stop", SOCKETS=str(sockets))
    assert list(sockets.iterdir()) == []


@pytest.mark.parametrize("name", ["restmq", "restmq-multi"])
def test_the_scripts_have_what_debian_s_init_wants(name: str) -> None:
    text = (SCRIPTS / f"{name}.init").read_text()
    block = re.search(r"^### BEGIN INIT INFO\n(.*?)^### END INIT INFO$", text, re.S | re.M)
    assert block
    keys = dict(re.findall(r"^# ([A-Z][A-Za-z-]+): +(.*)$", block[1], re.M))
    assert keys["Provides"] == name
    assert keys["Default-Start"] == "2 3 4 5" and keys["Default-Stop"] == "0 1 6"
    assert {"Required-Start", "Required-Stop", "Short-Description", "Description"} <= set(keys)
    assert os.access(SCRIPTS / f"{name}.init", os.X_OK)
    for file in (f"{name}.init", "restmq-init.sh"):
        subprocess.run(["dash", "-n", str(SCRIPTS / file)], check=True)


def test_a_copy_of_a_script_finds_restmq_by_its_defaults(site: Site, tmp_path: Path) -> None:
    copy = tmp_path / "restmq-multi"
    shutil.copy2(SCRIPTS / "restmq-multi.init", copy)
    file = tmp_path / "default"
    site.script("status", PLACE=str(site.place))
    shutil.copy2(site.folder / "default", file)
    done = subprocess.run(
        [str(copy), "status"], env={"RESTMQ_DEFAULTS": str(file)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 3 and f"restmq-multi: {site.first} does not run" in done.stdout, done.stderr


def script(path: Path, defaults: Path, *before: str) -> tuple[int, str]:
    """What a script answers when asked for the status: exit code and words."""
    done = subprocess.run(
        [*before, str(path), "status"], env={"RESTMQ_DEFAULTS": str(defaults)},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout


def test_without_instances_there_is_one_for_each_core_it_may_use(tmp_path: Path) -> None:
    file = tmp_path / "default"
    file.write_text(f"INSTANCES=\nRUN={tmp_path}\n")
    multi = SCRIPTS / "restmq-multi.init"
    cores = sorted(allowed_cores())
    for allowed in (cores, cores[:1]):
        code, said = script(multi, file, "taskset", "-c", ",".join(map(str, allowed)))
        asked = [f"restmq-multi.init: {9901 + number} does not run" for number in range(len(allowed))]
        assert (code, said.splitlines()) == (3, asked)


def test_an_empty_defaults_file_means_port_9901(tmp_path: Path) -> None:
    file = tmp_path / "default"
    file.touch()
    for name in ("restmq", "restmq-multi"):
        said = script(SCRIPTS / f"{name}.init", file)[1]
        assert said.startswith(f"{name}.init: 9901 "), said


def test_a_copy_that_is_not_told_a_place_looks_in_opt(tmp_path: Path) -> None:
    there = Path("/opt/restmq/scripts/restmq-init.sh").exists()  # this machine may have one
    file = tmp_path / "default"
    file.touch()
    for name in ("restmq", "restmq-multi"):
        copy = tmp_path / name
        shutil.copy2(SCRIPTS / f"{name}.init", copy)
        code, said = script(copy, file)
        if there:
            assert code != 5 and said.startswith(f"{name}: 9901 "), said
        else:
            assert (code, said) == (5, f"{name}: RestMQ is not in /opt/restmq: set PLACE in {file}\n")


def test_systemd_takes_the_units(tmp_path: Path, site: Site) -> None:
    for name in ("restmq@.service", "restmq.target"):
        text = (SCRIPTS / name).read_text()
        assert name == "restmq.target" or "/opt/restmq/scripts/restmq-multi.init run %i" in text
        (tmp_path / name).write_text(text.replace("/opt/restmq", str(site.place)))
    units = [str(tmp_path / "restmq@9901.service"), str(tmp_path / "restmq.target")]
    done = subprocess.run(
        ["systemd-analyze", "--man=no", "verify", *units], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.parametrize("above", [1, pytest.param(0, marks=pytest.mark.rare), pytest.param(7, marks=pytest.mark.rare)])
def test_what_systemd_runs_is_one_instance_in_the_foreground(site: Site, above: int) -> None:
    site.script("status", FIRST_PORT=str(site.ports[2] - 2 + above * 3))  # writes the defaults
    script = str(site.place / "scripts" / "restmq-multi.init")
    surroundings = {"RESTMQ_DEFAULTS": str(site.folder / "default"), "PATH": os.environ["PATH"]}
    subprocess.run([script, "prepare"], env=surroundings, check=True)
    log = site.folder / "foreground.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            ["setpriv", f"--reuid={site.user}", f"--regid={site.user}", "--clear-groups", "--no-new-privs",
             script, "run", str(site.ports[2])],
            env=surroundings, stdout=out, stderr=out,
        )  # fmt: skip
    try:
        until(lambda: site.answers(site.ports[2]), log.read_text)
        cores = sorted(allowed_cores())
        assert allowed_cores(process.pid) == {cores[(2 - above * 3) % len(cores)]}
    finally:
        process.terminate()
        process.wait(PATIENCE)
    assert process.returncode == -signal.SIGTERM  # which systemd takes for a good end
    assert "Traceback" not in log.read_text() and "lugin cache" not in log.read_text(), log.read_text()


@pytest.mark.rare
def test_what_operations_tells_to_type_prints_what_it_says(site: Site) -> None:
    """Its figures are those of one machine; that the commands measure them is what is tried here."""
    blocks = parse((ROOT / "docs" / "operations.md").read_text("utf-8"))
    assert sum(len(block.steps) for block in blocks) == 4
    code, said = site.script("start", many=False)
    assert code == 0, said
    until(lambda: site.answers(site.first), site.logs)
    measured = {
        "scripts/size": "--consumers 50 --queues 100 --elements 100 --seconds 0.2",
        "scripts/bench": "--seconds 0.5",
    }
    with Play("operations.md", site.first) as play:
        for block in blocks:
            for step in block.steps:
                command, wanted = step.lines[0], "\n".join(step.lines[1:])
                if command not in measured:
                    play.step(step, {})
                    continue
                # Typed by somebody who has nothing but the checkout, and what start.sh made in .venv.
                fresh = {"PATH": os.defpath, "PYTHON": site.defaults["PYTHON"], "RESTMQ_ENV": str(environment())}
                done = subprocess.run(
                    ["sh", "-c", f"{command} {measured[command]}"], cwd=ROOT, env=fresh,
                    capture_output=True, text=True, timeout=2 * LONG, check=False,
                )  # fmt: skip
                assert (done.returncode, done.stderr) == (0, "")
                same(done.stdout.rstrip("\n"), wanted, play.where(step))


@pytest.mark.parametrize("command", ["scripts/size", "scripts/bench"])
def test_who_measures_without_an_environment_is_told_what_to_do(command: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    fresh = {"PATH": os.defpath, "PYTHON": "/nowhere/python3", "RESTMQ_ENV": str(tmp_path / "file")}
    done = subprocess.run(["sh", "-c", command], cwd=ROOT, env=fresh, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stderr.splitlines() == [
        "restmq: there is no /nowhere/python3: install it, or name another with PYTHON=",
        "there is no environment to run this in; why stands above",
    ]


def test_operations_names_what_there_is() -> None:
    text = (ROOT / "docs" / "operations.md").read_text("utf-8")
    for link in re.findall(r"\]\(([^)]+)\)", text):
        assert (ROOT / "docs" / link).exists(), link
    verbs = set(re.findall(r"^    ([a-z-]+)\)", (SCRIPTS / "restmq-init.sh").read_text(), re.M))
    told = set(re.findall(r"^\| `([a-z-]+)` \|", text, re.M))
    assert told == {"start", "stop", "restart", "rolling", "status"} and told <= verbs
    for word in ("grace", "drain"):
        default = re.search(rf"^#{word} = (\d+)s$", (ROOT / "restmq.conf").read_text(), re.M)
        assert default and f"`{word}` ({default[1]} s)" in text


def test_nginx_lets_go_of_a_connection_before_an_ending_instance_does() -> None:
    nginx = re.search(r"^        keepalive_timeout (\d+)s;$", (ROOT / "docs" / "nginx.conf").read_text(), re.M)
    assert nginx and int(nginx[1]) < Config().grace < Config().drain


def test_nginx_lets_through_what_an_instance_takes_and_waits_longer_than_it_does() -> None:
    text = (ROOT / "docs" / "nginx.conf").read_text()
    given: dict[str, list[str]] = {}
    for name, words in re.findall(r"^ +(?:(?:proxy_set_header )?)([A-Za-z_-]+) +([^;{]+);$", text, re.M):
        given.setdefault(name, []).append(words)
    (read,) = given["proxy_read_timeout"]
    longest = max(options.MINUTE / 1000, Config().heartbeat)
    assert re.fullmatch(r"[0-9]+s", read) and int(read[:-1]) > longest + Config().deadline
    (size,) = given["client_max_body_size"]
    assert re.fullmatch(r"[0-9]+m", size) and int(size[:-1]) << 20 == Config().max_body
    # What was sent may have been done: only where nothing is taken (a refused live consumer) may more be asked again.
    again = [words.split() for words in given["proxy_next_upstream"]]
    assert again == [["error"], ["error", "http_503"]]
    assert given["Host"] == ["$http_host"]  # with its port, for RestMQ compares it with Origin


def test_every_setting_of_the_defaults_file_is_explained() -> None:
    text = (SCRIPTS / "restmq-init.sh").read_text()
    head, _, rest = text.partition("set -u\n")
    for name in re.findall(r"\b([A-Z_]+)=", rest.partition("# shellcheck source")[0]):
        assert name == "PATH" or re.search(rf"^#   .*\b{name}\b", head, re.M), name
