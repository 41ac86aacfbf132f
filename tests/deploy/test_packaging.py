"""How RestMQ gets onto a machine: start.sh's environment, what pip installs, and the locks that both rest on."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import restmq
from tests import ROOT
from tests.support.patience import LONG, PATIENCE, until
from tests.support.ports import free_port
from tests.support.requests import FORM, http_call

#: Packages of the lock by what Python imports; the others have the same name.
IMPORTED = {"zope": "zope-interface", "OpenSSL": "pyopenssl", "service_identity": "service-identity",
            "prometheus_client": "prometheus-client"}  # fmt: skip


#: Every lock of Python packages.
LOCKS = ["requirements.lock", "requirements-test.lock", "_build/requirements.lock", "tests/clients/requirements.lock"]


def environment(**more: str) -> dict[str, str]:
    """What a stranger's shell has: nothing of ours."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "RESTMQ_"))}
    return {**clean, "PYTHON": sys.executable, **more}


def pinned(lock: str) -> dict[str, set[str]]:
    """The packages of a lock, each with its versions (one for each kind of Python)."""
    found: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([a-z0-9-]+)==([^ ]+)", (ROOT / lock).read_text(), re.M):
        found.setdefault(name, set()).add(version)
    return found


@contextmanager
def served(command: list[str], folder: Path, redis: str, **more: str) -> Iterator[tuple[int, int]]:
    """RestMQ started by a command in a folder, until it answers: its port and process id. folder/log is its output."""
    port = free_port()
    words = ["--port", str(port), "--redis", redis, "--data", str(folder / "data")]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([*command, *words], cwd=folder, env=environment(**more), stdout=log, stderr=log)
    try:
        until(lambda: process.poll() is not None or ready(port), (folder / "log").read_text, LONG)
        assert process.poll() is None, (folder / "log").read_text()
        yield port, process.pid
    finally:
        process.terminate()
        process.wait(PATIENCE)
    assert "Traceback" not in (folder / "log").read_text()
    assert "Warning" not in (folder / "log").read_text()


def ready(port: int) -> bool:
    """Whether it answers."""
    try:
        return fetch(port, "/readyz") != b""
    except OSError:
        return False


def fetch(port: int, path: str) -> bytes:
    """The body of a page that is there."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=PATIENCE) as answer:
        body: bytes = answer.read()
        return body


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tree as somebody gets it, without what tools made in this one."""
    made = shutil.ignore_patterns(
        ".git", ".*env*", ".*_cache", ".hypothesis", "__pycache__", "*.egg-info", "build", "dist", "dropin.cache"
    )
    copy = tmp_path_factory.mktemp("checkout") / "restmq"
    shutil.copytree(ROOT, copy, ignore=made)
    return copy


@pytest.fixture(scope="module")
def started(checkout: Path) -> Path:
    """A checkout whose environment start.sh made, when it was started twice at once for the first time."""
    twice = [
        subprocess.Popen(
            [checkout / "start.sh", "--help"], env=environment(), text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for _ in range(2)
    ]  # fmt: skip
    said = [start.communicate(timeout=2 * LONG) for start in twice]
    assert [start.returncode for start in twice] == [0, 0], said
    assert all("--listen" in output for output, _ in said)
    assert sum("making an environment" in notes for _, notes in said) == 1, said
    assert sum("another start is making the environment" in notes for _, notes in said) == 1, said
    return checkout


def made(checkout: Path) -> Path:
    """The environment in a checkout."""
    kind = f"{sys.implementation.name}-{sys.version_info[0]}.{sys.version_info[1]}"
    return checkout / ".venv" / kind


def test_two_first_starts_at_once_make_one_environment_that_pip_finds_consistent(started: Path) -> None:
    checked = subprocess.run(
        [made(started) / "bin" / "python", "-m", "pip", "check"], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout


def test_a_second_start_makes_nothing(started: Path, tmp_path: Path, redis_server: Any) -> None:
    def files() -> dict[Path, tuple[int, int]]:
        found = ((path, path.lstat()) for path in started.rglob("*"))
        return {path: (status.st_ino, status.st_mtime_ns) for path, status in found if not path.is_dir()}

    with served([str(started / "start.sh")], tmp_path, redis_server.address):  # the first to serve notes bytecode
        pass
    before = files()
    for number in range(2):
        folder = tmp_path / f"start{number}"
        folder.mkdir()
        with served([str(started / "start.sh")], folder, redis_server.address) as (port, _):
            assert b"<form" in fetch(port, "/queue")
        assert "environment" not in (folder / "log").read_text()
    assert files() == before


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file and folder in it, with its size and the time of its last change."""
    found = [folder, *(path for path in folder.rglob("*") if ".venv" not in path.parts)]
    return {str(path): (path.stat().st_size if path.is_file() else 0, path.stat().st_mtime_ns) for path in found}


def test_what_is_started_in_a_checkout_leaves_nothing_in_it(
    started: Path, checkout: Path, tmp_path: Path, redis_server: Any
) -> None:
    folder = tmp_path / "restmq"
    shutil.copytree(checkout, folder, ignore=shutil.ignore_patterns(".venv"))
    before, env = tree(folder), environment(RESTMQ_ENV=str(started / ".venv"))
    for words in (["--help"], ["--version"], ["--port", "none"], ["--no-such-option"]):
        said = subprocess.run(
            [folder / "start.sh", *words], env=env, cwd=folder, text=True, capture_output=True, check=False
        )
        assert "environment" not in said.stderr
        assert tree(folder) == before, words
    with served([str(folder / "start.sh")], tmp_path, redis_server.address, RESTMQ_ENV=env["RESTMQ_ENV"]) as (port, _):
        assert b"<form" in fetch(port, "/queue")
        assert fetch(port, "/static/restmq.css") and fetch(port, "/openapi.json")
        assert tree(folder) == before
    assert tree(folder) == before


def test_the_folder_may_move_after_the_first_start(started: Path, tmp_path: Path, redis_server: Any) -> None:
    moved = started.rename(started.with_name("moved"))
    try:
        with served([str(moved / "start.sh")], tmp_path, redis_server.address) as (port, _):
            assert fetch(port, "/static/restmq.css")
        assert "environment" not in (tmp_path / "log").read_text()
    finally:
        moved.rename(started)


def test_start_sh_embeds_a_redis_and_finds_its_data_again(started: Path, tmp_path: Path) -> None:
    for number, wanted in enumerate((b"kept:1\r\n", b'{"count": 0, "key": "kept:1", "value": "x"}\r\n')):
        with served([str(started / "start.sh")], tmp_path, "embedded") as (port, _):
            words: tuple[Any, ...] = ("GET", "/q/kept") if number else ("POST", "/q/kept", "value=x", FORM)
            assert http_call(port, *words)[2] == wanted


@pytest.mark.rare
def test_an_environment_that_was_left_half_made_is_made_anew(checkout: Path, tmp_path: Path) -> None:
    entry = re.search(r"^idna==.*\n(?: .*\n)+", (ROOT / "requirements.lock").read_text(), re.M)
    assert entry
    lock, place = tmp_path / "lock", tmp_path / "place"
    lock.write_text(entry[0])  # one package is enough
    command: list[str | Path] = [checkout / "_build" / "environment", sys.executable, place, lock]
    first = subprocess.Popen(
        command, env=environment(), text=True, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    assert first.stderr is not None
    assert "making an environment" in first.stderr.readline()
    until(lambda: list(place.glob("*.new/*")))
    os.killpg(first.pid, signal.SIGKILL)
    first.wait(PATIENCE)
    first.stderr.close()
    (half,) = place.glob("*.new")
    again = subprocess.run(command, env=environment(), text=True, capture_output=True, check=False)
    assert again.returncode == 0, again.stderr
    assert "making an environment" in again.stderr
    assert not half.exists() and (Path(again.stdout.strip()) / "bin" / "python").exists()


def test_root_makes_no_environment_in_another_user_s_folder(checkout: Path, tmp_path: Path) -> None:
    os.chown(tmp_path, 65534, 65534)
    command: list[str | Path] = [checkout / "start.sh", "--help"]
    start = subprocess.run(
        command, env=environment(RESTMQ_ENV=str(tmp_path)), text=True, capture_output=True, check=False
    )
    assert start.returncode == 1 and list(tmp_path.iterdir()) == []
    assert start.stderr.startswith(f"restmq: {tmp_path} belongs to another user") and start.stderr.count("\n") == 1


def test_a_link_to_start_sh_starts_it_too(started: Path, tmp_path: Path) -> None:
    (tmp_path / "restmq").symlink_to(started / "start.sh")
    (tmp_path / "again").symlink_to("restmq")
    start = subprocess.run(
        [tmp_path / "again", "--version"], env=environment(), text=True, capture_output=True, check=False
    )
    assert (start.returncode, start.stdout, start.stderr) == (0, f"RestMQ {restmq.__version__}\n", "")


def test_a_python_that_is_too_old_or_missing_is_one_line(checkout: Path, tmp_path: Path) -> None:
    old = tmp_path / "python2"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    for python, reason in ((str(old), "is too old"), ("python0", "there is no python0")):
        start = subprocess.run(
            [checkout / "start.sh"], env=environment(PYTHON=python), text=True, capture_output=True, check=False
        )
        assert start.returncode == 1
        assert reason in start.stderr
        assert start.stderr.count("\n") == 1


@pytest.fixture(scope="module")
def installed(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty environment after `pip install .`, its packages held to the lock's versions, so that no
    release of tomorrow changes what is tested today."""
    place = tmp_path_factory.mktemp("installed")
    lock = (ROOT / "requirements.lock").read_text()
    pins = re.sub(r" \\$", "", re.sub(r"^ +--hash.*\n?", "", lock, flags=re.M), flags=re.M)
    (place / "pins.txt").write_text(pins)
    subprocess.run([sys.executable, "-m", "venv", place / "env"], check=True)
    pip: list[str | Path] = [place / "env" / "bin" / "python", "-m", "pip", "-q", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "-c", place / "pins.txt", checkout], check=True, env=environment())
    return place / "env"


@pytest.mark.rare
def test_pip_install_gives_a_twistd_restmq_with_its_pages_from_any_directory(
    installed: Path, tmp_path: Path, redis_server: Any
) -> None:
    command = [str(installed / "bin/twistd"), "-n", "--pidfile=", "restmq"]
    with served(command, tmp_path, redis_server.address) as (port, _):
        assert b"<form" in fetch(port, "/queue")
        assert b"{" in fetch(port, "/static/restmq.css")
        assert fetch(port, "/q/")


@pytest.mark.rare
def test_pip_check_finds_nothing_after_pip_install(installed: Path) -> None:
    pip = [str(installed / "bin" / "python"), "-m", "pip", "--disable-pip-version-check"]
    checked = subprocess.run([*pip, "check"], capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stdout) == (0, "No broken requirements found.\n")


@pytest.mark.rare
def test_the_newest_pip_builds_it_as_well(checkout: Path, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "env"], check=True)
    pip: list[str | Path] = [
        tmp_path / "env" / "bin" / "python",
        "-m",
        "pip",
        "-q",
        "--disable-pip-version-check",
        "install",
    ]
    for words in (["--upgrade", "pip"], ["--no-deps", checkout]):
        subprocess.run([*pip, *words], check=True, env=environment())
    site = next(tmp_path.glob("env/lib/*/site-packages"))
    assert (site / "restmq" / "web.py").is_file()
    assert (site / "cyclone" / "web.py").is_file()


def holds_everything(site: Path) -> None:
    """Every file of the package is there, and nothing that breaks twistd."""
    for folder in ("restmq", "frontend"):
        for file in (ROOT / folder).rglob("*"):
            if file.is_file() and "__pycache__" not in file.parts:
                package = site if folder == "restmq" else site / "restmq"
                assert (package / file.relative_to(ROOT)).read_bytes() == file.read_bytes()
    assert (site / "cyclone" / "web.py").is_file()
    assert not (site / "cyclone" / "tests").exists()
    assert [file.name for file in (site / "twisted" / "plugins").glob("[cr]*_plugin.py")] == ["restmq_plugin.py"]
    assert [file.parent.name for file in site.glob("restmq-*.dist-info/**/NOTICE")] == ["licenses"]


@pytest.mark.rare
def test_every_file_of_the_package_is_installed_and_nothing_that_breaks_twistd(installed: Path) -> None:
    holds_everything(next(installed.glob("lib/*/site-packages")))


def test_a_wheel_holds_every_file_and_nothing_of_an_earlier_build(checkout: Path, tmp_path: Path) -> None:
    left = checkout / "build" / "lib" / "restmq" / "gone.py"
    left.parent.mkdir(parents=True)
    left.write_text("")
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
    wheel: list[str | Path] = ["wheel", "--no-deps", "--no-build-isolation", "-w", tmp_path, checkout]
    subprocess.run([*pip, *wheel], check=True, env=environment())
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as archive:
        names = archive.namelist()
        assert "restmq/web.py" in names
        assert "restmq/gone.py" not in names
        record = archive.read(next(name for name in names if name.endswith("/RECORD"))).decode()
        assert sorted(line.split(",")[0] for line in record.splitlines()) == sorted(names)
        archive.extractall(tmp_path / "site")
    holds_everything(tmp_path / "site")


def is_standard(name: str) -> bool:
    """Whether a module comes with Python."""
    try:
        spec = importlib.util.find_spec(name)
    except ValueError:  # PyPy has modules without one
        return True
    return spec is not None and "site-packages" not in str(spec.submodule_search_locations or spec.origin)


def test_the_lock_covers_every_import() -> None:
    names = set()
    for file in [*(ROOT / "restmq").rglob("*.py"), *(ROOT / "twisted").rglob("*.py")]:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module.split(".")[0])
    others = {name for name in names if not is_standard(name)} - {"restmq", "cyclone"}
    assert "twisted" in others
    assert {IMPORTED.get(name, name) for name in others} <= set(pinned("requirements.lock"))
    assert {"twisted", "txredisapi", "hiredis"} <= set(pinned("requirements.lock"))


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_has_a_hash_for_each_package_and_names_no_place_to_fetch_it(lock: str) -> None:
    text = (ROOT / lock).read_text()
    assert "://" not in text
    packages = [entry for entry in re.split(r"^(?! )", text, flags=re.M) if entry]
    assert packages
    for entry in packages:
        assert re.match(r"[a-z0-9-]+==\S+ ", entry), entry
        assert "--hash=sha256:" in entry, entry


def test_the_tests_run_with_what_users_get() -> None:
    tests = pinned("requirements-test.lock")
    for name, versions in pinned("requirements.lock").items():
        assert versions <= tests[name], name


def test_a_build_uses_the_versions_of_the_build_s_lock() -> None:
    requires = re.search(r"^requires = (.*)$", (ROOT / "pyproject.toml").read_text(), re.M)
    assert requires
    named = dict(word.split("==") for word in ast.literal_eval(requires[1]))
    assert {name: {version} for name, version in named.items()} == pinned("_build/requirements.lock")
