"""twistd restmq in a checkout, which stays as it is: start.sh calls it.

Python would note the modules that it compiled beside them, and Twisted which plugins it found in
the folder twisted/plugins of everything in the path. So Python notes nothing, and this hands
twistd its only plugin. Instances that init.d starts find both there, made by root: scripts/restmq-init.sh.
"""

from __future__ import annotations

import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import twisted.plugins  # noqa: F401  # before the checkout is in the path: it looks for its folders as it is imported
from twisted.application.app import run
from twisted.scripts.twistd import ServerOptions, runApp  # type: ignore[attr-defined]  # not in its __all__

CHECKOUT = Path(__file__).resolve().parent.parent


class Options(ServerOptions):
    """twistd's options, and one service that it can make."""

    @property
    def subCommands(self) -> Iterator[tuple[str, None, Any, str]]:
        """The commands that twistd asks its plugins for."""
        maker = runpy.run_path(str(CHECKOUT / "twisted" / "plugins" / "restmq_plugin.py"))["restmq"]
        self.loadedPlugins = {maker.tapname: maker}
        yield maker.tapname, None, lambda: maker.options(), maker.description


if __name__ == "__main__":
    sys.dont_write_bytecode = True
    sys.path.insert(0, str(CHECKOUT))
    run(runApp, Options)
