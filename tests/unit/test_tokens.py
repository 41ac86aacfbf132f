"""How much a JSON text may hold: counted outside its strings, before it is parsed."""

from __future__ import annotations

import json

import pytest

from restmq.model.errors import BadRequest, TooLarge
from restmq.model.tokens import MOST, bounded

LISTS = "[" + "[]," * MOST + "0]"
MANY = [
    LISTS,
    "[" + "{}," * MOST + "0]",
    "[" + "1," * MOST + "0]",
    "[" + '"",' * (MOST // 2) + "0]",
    "{" + '"a":1,' * (MOST // 2) + '"a":1}',
    '["\\"",' + LISTS[1:],
    '["\\\\",' + LISTS[1:],
    '["\\\\\\"[",' + LISTS[1:],
]
FEW = [
    "{}",
    json.dumps({"value": LISTS}),
    json.dumps({"value": LISTS * 2, "id": "\\"}),
    json.dumps({"value": '"[[' * MOST}),
    json.dumps({"value": "[" * MOST * 2, "id": ["\\" * 9]}),
    json.dumps(["," * MOST] * 100),
]


@pytest.mark.parametrize("text", MANY, ids=range(len(MANY)))
def test_a_text_with_many_values_is_too_large(text: str) -> None:
    for one in (text.encode(), (text + "é").encode(), text.encode() + b"\xff"):
        with pytest.raises(TooLarge):
            bounded(one)


@pytest.mark.parametrize("text", FEW, ids=range(len(FEW)))
def test_what_stands_in_a_string_is_no_value(text: str) -> None:
    for one in (text.encode(), text[:-1].encode(), (text + "é").encode()):
        bounded(one)


@pytest.mark.parametrize("bracket", ["[", '{"a":'])
def test_levels_are_told_as_such(bracket: str) -> None:
    with pytest.raises(BadRequest, match="nested too deep"):
        bounded(bracket.encode() * MOST * 2)
