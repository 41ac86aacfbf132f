"""Imports point down, and no function grows beyond a screen."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "restmq"
LAYERS = [
    {"errors", "element", "slot", "clock", "cork", "suggest", "tokens", "plainfile", "changes", "ini", "options"}
    | {"document", "wide", "room", "answers", "heap"},
    {"scripts", "redis", "redistime", "turn", "due", "books", "core"},
    {"presence", "inbox", "waiting", "message", "consumers", "pace", "tapping", "delivery", "resume"},
    {"cyclone3", "negotiation", "head", "form", "request", "http", "stream", "proxies", "accesslog"}
    | {"handler", "application", "acl", "guesses", "rest", "leases", "commands", "live", "websocket", "rules"}
    | {"admin", "dead", "looking", "pages", "health", "metrics"},
    {"config", "log", "embedded", "tls", "exposure", "door", "tap", "web"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
MODULES = sorted(path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__")


def imported(module: str) -> set[str]:
    """Every module that a module imports, dotted; those only for the type checker too."""
    found = set()
    for node in ast.walk(ast.parse((PACKAGE / f"{module}.py").read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level and node.module, f"{module} imports by a relative name, in line {node.lineno}"
            found.add(node.module)
            if node.module == "restmq":
                found |= {f"restmq.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_its_own_layer_and_those_below(module: str) -> None:
    for name in imported(module):
        if name.startswith("restmq."):
            assert LEVEL[name[7:]] <= LEVEL[module], f"{module} imports {name}"


@pytest.mark.parametrize("module", MODULES)
def test_only_the_core_knows_redis_and_only_the_wire_knows_cyclone(module: str) -> None:
    roots = {name.partition(".")[0] for name in imported(module)}
    assert "txredisapi" not in roots or LEVEL[module] == 1
    assert "hiredis" not in roots or LEVEL[module] == 1
    assert "cyclone" not in roots or LEVEL[module] == 3


def test_every_module_has_its_layer_and_its_types_are_checked() -> None:
    assert set(MODULES) == set(LEVEL)
    text = (PACKAGE.parent / "pyproject.toml").read_text("utf-8")
    settings = text.partition("[tool.mypy]")[2].partition("[tool.pytest")[0]
    assert 'files = ["restmq"]' in settings and "strict = true" in settings
    assert "restmq." not in settings and "ignore_errors" not in settings


def test_the_architecture_names_every_module_in_its_layer() -> None:
    text = (PACKAGE.parent / "docs" / "architecture.md").read_text("utf-8")
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith(tuple(f"| {at} " for at in range(9)))]
    assert [set(row[1].replace(", lua/", "").split()) for row in rows] == LAYERS


#: Functions that are longer than the bound, and may only become shorter.
LONG = {"delivery._joining": 55}


@pytest.mark.parametrize("module", MODULES)
def test_a_function_fits_on_a_screen(module: str) -> None:
    tree = ast.parse((PACKAGE / f"{module}.py").read_text("utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            lines = (node.end_lineno or 0) - node.lineno + 1
            assert lines <= LONG.get(f"{module}.{node.name}", 50), f"{module}.{node.name} has {lines} lines"


def test_a_verb_of_lua_fits_on_two_screens() -> None:
    for path in PACKAGE.rglob("*.lua"):
        text = path.read_text("utf-8").splitlines()
        code = sum(1 for line in text if line.strip() and not line.strip().startswith("--"))
        assert code <= 130, f"{path.relative_to(PACKAGE).as_posix()} has {code} lines"
