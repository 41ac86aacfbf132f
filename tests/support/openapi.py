"""Reads /openapi.json, for the tests that hold it against what an instance does."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from tests import ROOT

API: dict[str, Any] = json.loads((ROOT / "frontend/openapi.json").read_text("utf-8"))
#: What may be the answer to any request, and is not repeated for each.
ANY = {"400", "401", "403", "404", "405", "406", "412", "413", "415", "421", "426", "499", "501", "505"}


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Method, path and description of each operation."""
    for path, item in API["paths"].items():
        for method, described in item.items():
            if method != "parameters":
                yield method.upper(), path, described


def resolved(node: Any) -> Any:
    """What a reference refers to. Raises KeyError."""
    while isinstance(node, dict) and "$ref" in node:
        found: Any = API
        for word in node["$ref"].removeprefix("#/").split("/"):
            found = found[word]
        node = found
    return node


def matched(method: str, target: str) -> tuple[str, dict[str, Any]] | None:
    """The path and the operation that a request is."""
    asked = target.partition("?")[0]
    asked = {"/stats": "/stats/", "/control": "/control/", "/q": "/q/"}.get(asked, asked)
    # What is written out goes before what stands for any name: /q/{name}/take before /q/{name}/{number}.
    for path in sorted(API["paths"], key=lambda path: (path.count("{"), -len(path))):
        if re.fullmatch(re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(path)), asked):
            one = API["paths"][path].get(method.lower())
            return (path, one) if one else None
    return None


def undeclared(lines: list[str]) -> list[str]:
    """The lines of an access log whose status is none that their operation declares."""
    found = []
    for line in lines:
        method, target, status = re.sub(r"^\S+Z ", "", line).split(" ")[1:4]
        if (method, status) == ("OPTIONS", "204"):
            continue  # every address has it, as the description says
        _, described = matched(method, target) or ("", {"responses": {}})
        if status not in described["responses"] and status not in ANY:
            found.append(line)
    return found
