"""How RestMQ gets cyclone: the one place where its pin on an old Twisted is overcome.

cyclone 1.3 demands twisted==19.2.1, which no current Python builds, though its
web part works with Twisted 26 once restmq/http/cyclone3.py has mended it. No
constraint can lift another package's pin. So this PEP 517 backend lets
setuptools make our wheel, fetches cyclone's source by its hash, and puts its
modules into that wheel: no pin, no second command, and `pip check` is clean.
Left out are cyclone's tests, and its twistd plugin: Python 3.12 and later cannot
import it, and each run of twistd would print the traceback.
An environment that runs from the checkout gets the same modules from
`python _build/restmq_build.py FOLDER`: see _build/environment, used by start.sh.
"""

from __future__ import annotations

import base64
import compileall
import hashlib
import os
import subprocess
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Mapping
from typing import Optional, Union

#: The arguments of setuptools' hooks (PEP 517).
Folder = Union[str, os.PathLike[str]]
Settings = Optional[Mapping[str, Union[str, list[str], None]]]

CYCLONE = "cyclone==1.3 --hash=sha256:6e5ec576c719240180d56e6e8f83bb474ab52ca3e56ed6417a90f60fd0bf562b\n"


def cyclone() -> dict[str, bytes]:
    """cyclone's modules: path in site-packages -> content.

    It is built with the setuptools of this environment, whose version is pinned, and not with one that
    pip would choose. Raises CalledProcessError when pip cannot fetch it; pip has said why.
    """
    with tempfile.TemporaryDirectory() as folder:
        wanted = os.path.join(folder, "cyclone.txt")
        with open(wanted, "w", encoding="ascii") as file:
            file.write(CYCLONE)
        pip = [sys.executable, "-m", "pip", "wheel", "-q", "--disable-pip-version-check"]
        how = ["--no-deps", "--require-hashes", "--use-pep517", "--no-build-isolation", "--no-cache-dir"]
        # The pip that builds us tells its backend, this one, in the environment; cyclone's is another.
        environment = {name: value for name, value in os.environ.items() if "BACKEND" not in name}
        subprocess.check_call([*pip, *how, "-w", folder, "-r", wanted], env=environment)
        wheel = next(name for name in os.listdir(folder) if name.endswith(".whl"))
        with zipfile.ZipFile(os.path.join(folder, wheel)) as archive:
            return {
                name: archive.read(name)
                for name in archive.namelist()
                if name.startswith("cyclone/") and "/tests/" not in name
            }


def _add(path: str) -> None:
    """Put cyclone into a wheel, and into the wheel's RECORD (PEP 427)."""
    extra = cyclone()
    with zipfile.ZipFile(path) as old:
        content = {info.filename: old.read(info) for info in old.infolist()}
    record = next(name for name in content if name.endswith(".dist-info/RECORD"))
    lines = content.pop(record).decode("utf-8").rstrip("\n").split("\n")
    for name, data in extra.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode("ascii")
        lines.append(f"{name},sha256={digest},{len(data)}")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name, data in {**content, **extra}.items():
            new.writestr(name, data)
        new.writestr(record, "\n".join(lines) + "\n")


def main(folder: str) -> None:
    """Lay cyclone's modules into a folder, compiled, as pip would."""
    for name, data in cyclone().items():
        path = os.path.join(folder, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its old string escapes; unless compiled here, twistd would print this
        compileall.compile_dir(os.path.join(folder, "cyclone"), quiet=2)


if __name__ == "__main__":
    main(sys.argv[1])
else:
    from setuptools import build_meta as _setuptools
    from setuptools.build_meta import *  # noqa: F403  the other hooks are setuptools' own

    def build_wheel(
        wheel_directory: Folder, config_settings: Settings = None, metadata_directory: Folder | None = None
    ) -> str:
        """PEP 517: the wheel, with cyclone in it."""
        name = _setuptools.build_wheel(wheel_directory, config_settings, metadata_directory)
        _add(os.path.join(wheel_directory, name))
        return name

    def build_editable(
        wheel_directory: Folder, config_settings: Settings = None, metadata_directory: Folder | None = None
    ) -> str:
        """PEP 660: the same for `pip install -e .`."""
        name = _setuptools.build_editable(wheel_directory, config_settings, metadata_directory)
        _add(os.path.join(wheel_directory, name))
        return name
