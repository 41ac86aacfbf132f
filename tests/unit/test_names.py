"""The tests' own order: names that can be read, and each helper once."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

import pytest

from tests import ROOT

FOLDERS = ("unit", "wire", "store", "cluster", "deploy", "faults")
FILES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").rglob("test_*.py"))


def definitions(file: str) -> list[ast.FunctionDef | ast.ClassDef]:
    """The functions and classes of a file, but for those in others."""
    tree = ast.parse((ROOT / file).read_text("utf-8"))
    return [node for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))]


@pytest.mark.parametrize("file", FILES)
def test_the_name_of_a_test_is_a_sentence_of_at_most_90_characters(file: str) -> None:
    assert Path(file).parts[1] in FOLDERS
    for node in definitions(file):
        if node.name.startswith("test_"):
            assert len(node.name) <= 90 and node.name.count("_") >= 2, node.name


@pytest.mark.parametrize("file", FILES)
def test_what_tests_share_is_in_support(file: str) -> None:
    for node in ast.walk(ast.parse((ROOT / file).read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tests."):
            assert (node.module or "").startswith("tests.support"), f"{file}, line {node.lineno}"


def test_no_helper_stands_in_two_files() -> None:
    found = defaultdict(set)
    for path in (ROOT / "tests").rglob("*.py"):
        file = path.relative_to(ROOT).as_posix()
        for node in definitions(file):
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("test_"):
                body = node.body[1:] if ast.get_docstring(node) else node.body
                found[node.name, ast.dump(node.args), tuple(map(ast.dump, body))].add(file)
    assert not [(name, files) for (name, *_), files in found.items() if len(files) > 1]
