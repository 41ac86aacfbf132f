"""Imports point down, and no function grows beyond a screen."""

from __future__ import annotations

import ast
import re

import pytest

from tests import ROOT

PACKAGE = ROOT / "restmq"
#: Folders, the lowest first; those of one line may import each other. The modules beside them come last, but for
#: config, which handlers read.
LAYERS = [{"model", "runtime"}, {"store"}, {"delivery"}, {"http", "access", "api", "live"}, {""}]
BESIDE = {"config": 3}
LEVEL = {folder: level for level, folders in enumerate(LAYERS) for folder in folders}
#: All that is written in Python: folders, and files beside others.
PYTHON = {"restmq", "tests", "_build", "docs/examples", "setup.py", "twisted/plugins/restmq_plugin.py"} | {
    f"scripts/{path.name}"
    for path in (PACKAGE.parent / "scripts").iterdir()
    if path.is_file() and path.read_bytes().startswith(b"#!/usr/bin/env python3")
}
MODULES = sorted(
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
    for path in PACKAGE.rglob("*.py")
    if path.stem != "__init__"
)


def level(module: str) -> int:
    """The layer of a module, whose dotted name begins below restmq."""
    return BESIDE.get(module, LEVEL[module.rpartition(".")[0]])


def imported(module: str) -> set[str]:
    """Every module that a module imports, dotted; those only for the type checker too."""
    found = set()
    for node in ast.walk(ast.parse((PACKAGE / f"{module.replace('.', '/')}.py").read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level and node.module, f"{module} imports by a relative name, in line {node.lineno}"
            inner = {f"{node.module}.{alias.name}" for alias in node.names} & {f"restmq.{one}" for one in MODULES}
            found |= inner or {node.module}
    return found


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_its_own_layer_and_those_below(module: str) -> None:
    for name in imported(module):
        if name.startswith("restmq."):
            assert level(name[7:]) <= level(module), f"{module} imports {name}"


def test_no_imports_run_in_a_circle_not_even_those_for_the_type_checker() -> None:
    left = {module: {name[7:] for name in imported(module) if name[7:] in MODULES} for module in MODULES}
    while free := [module for module, names in left.items() if not names & left.keys()]:
        for module in free:
            del left[module]
    assert not left, f"each of these imports another of them: {sorted(left)}"


@pytest.mark.parametrize("module", MODULES)
def test_only_the_store_knows_redis_and_only_the_wire_knows_cyclone(module: str) -> None:
    roots = {name.partition(".")[0] for name in imported(module)}
    assert "txredisapi" not in roots or level(module) == 1
    assert "hiredis" not in roots or level(module) == 1
    assert "cyclone" not in roots or level(module) == 3


@pytest.mark.parametrize("module", [one for one in MODULES if level(one) >= 3 or one.startswith("model.")])
def test_any_stands_only_with_a_reason(module: str) -> None:
    """A comment on the line or above it says why; or one beside the import of Any, for the whole module."""
    lines = (PACKAGE / f"{module.replace('.', '/')}.py").read_text("utf-8").splitlines()
    nodes = list(ast.walk(ast.parse("\n".join(lines))))
    imports = [node for node in nodes if isinstance(node, ast.ImportFrom)]
    if any("#" in lines[one.lineno - 1] for one in imports if "Any" in [alias.name for alias in one.names]):
        return
    for node in nodes:
        if isinstance(node, ast.Name) and node.id == "Any":
            line, above = lines[node.lineno - 1], lines[node.lineno - 2].strip()
            assert "#" in line or above.startswith("#"), f"{module}: {line.strip()}"


@pytest.mark.parametrize("module", MODULES)
def test_only_the_store_has_names_of_keys_and_channels_and_calls_scripts(module: str) -> None:
    text = (PACKAGE / f"{module.replace('.', '/')}.py").read_text("utf-8")
    assert level(module) == 1 or not re.search(r"restmq:\w*[{:]|\.script\(|\bEVAL", text)


def test_every_folder_has_its_layer_and_its_types_are_checked() -> None:
    assert {module.rpartition(".")[0] for module in MODULES} == set(LEVEL)
    text = (PACKAGE.parent / "pyproject.toml").read_text("utf-8")
    settings = text.partition("[tool.mypy]")[2].partition("[tool.pytest")[0]
    assert "strict = true" in settings
    assert "restmq." not in settings and "ignore_errors" not in settings
    checked = re.search(r"^files = \[(.*?)\]", settings, re.M | re.S)
    assert checked is not None and set(re.findall(r'"(.+?)"', checked[1])) == PYTHON


def test_the_architecture_names_every_module_in_its_layer() -> None:
    text = (PACKAGE.parent / "docs" / "architecture.md").read_text("utf-8")
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith(tuple(f"| {at} " for at in range(9)))]
    found = {}
    for at, row in enumerate(rows):
        for part in row[1].split("; "):
            folder, _, modules = part.replace(", lua/", "").rpartition("/: ")
            found.update({f"{folder}.{module}".lstrip("."): at for module in modules.split()})
    assert found == {module: level(module) for module in MODULES}


#: Functions that are longer than the bound, and may only become shorter.
LONG: dict[str, int] = {}


@pytest.mark.parametrize("module", MODULES)
def test_a_function_fits_on_a_screen(module: str) -> None:
    tree = ast.parse((PACKAGE / f"{module.replace('.', '/')}.py").read_text("utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            lines = (node.end_lineno or 0) - node.lineno + 1
            assert lines <= LONG.get(f"{module}.{node.name}", 50), f"{module}.{node.name} has {lines} lines"


def test_a_verb_of_lua_fits_on_two_screens() -> None:
    for path in PACKAGE.rglob("*.lua"):
        text = path.read_text("utf-8").splitlines()
        code = sum(1 for line in text if line.strip() and not line.strip().startswith("--"))
        assert code <= 130, f"{path.relative_to(PACKAGE).as_posix()} has {code} lines"
