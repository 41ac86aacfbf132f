"""Large JSON texts, which are read and written in pieces: held against the whole text, read at once."""

from __future__ import annotations

import json
from io import BytesIO
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from restmq.model import document, wide
from restmq.model.errors import BadRequest, TooLarge

#: What a JSON string may have in it, as it is written; the last ones are no text.
WORDS = [
    "a", "é", "€", "\U0001f600", "\\\\", '\\"', "\\n", "\\/", "\\u0061", "\\u00e9", "\\u20ac", "\\ud83d\\ude00",
    "ud83d", "u", "\u2028", "\\u2028",
]  # fmt: skip
STRINGS = st.lists(st.sampled_from(WORDS), max_size=40).map("".join)
PAD = "p" * (70 << 10)  # makes a text large


@pytest.fixture(params=[16, 21, 64 << 10], autouse=True)
def piece(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces of so many bytes; the shortest is longer than any escape and a character."""
    monkeypatch.setattr(wide, "PIECE", request.param)


@given(st.lists(st.sampled_from([*WORDS, "\\ud83d", "\\ude00"]), max_size=40).map("".join))
def test_a_string_is_read_in_pieces_as_it_is_as_a_whole(text: str) -> None:
    whole = json.loads(f'"{text}"')
    raw = text.encode("utf-8")
    try:
        wanted = whole.encode("utf-8")
    except UnicodeEncodeError:
        with pytest.raises(UnicodeEncodeError):
            wide.content(raw, 0, len(raw))
        return
    assert wide.content(raw, 0, len(raw)) == wanted


@given(STRINGS)
def test_a_value_is_written_in_pieces_as_it_is_as_a_whole(text: str) -> None:
    value = json.loads(f'"{text}"')
    into = BytesIO()
    wide.quoted(value.encode("utf-8"), into)
    said = into.getvalue().decode("utf-8")
    assert json.loads(said) == value and "\u2028" not in said


@given(STRINGS, STRINGS, st.sampled_from(['"{}"', '["{}", 1.5]', '{{"a": "{}", "a": [{{}}]}}', "1.50", "null"]))
def test_a_large_command_says_what_a_small_one_says(name: str, text: str, value: str) -> None:
    value = value.format(text)
    fields = f'"cmd" : "add","x{name}":"{name}" , "value":{value}'
    small = document.read(f"{{{fields}}}".encode(), "", "value")
    for large in (f"{{{fields}{' ' * len(PAD)}}}", f"{' ' * len(PAD)}{{{fields}}}"):
        found = document.read(large.encode(), "", "value")
        assert found.opaque == small.opaque and list(found) == list(small)
        assert all(found[word] == small[word] for word in found if word != "value")


@given(STRINGS)
def test_the_lists_of_a_large_document_say_what_those_of_a_small_one_say(text: str) -> None:
    entries = f'["{text}" , {{"{text}": ["{text}"]}},1.5,[] ,{{}}, null]'
    small = document.read(f'{{"a": {entries}, "b": []}}'.encode(), "")
    found = document.read(f'{{"a": {entries}, "b": [{" " * len(PAD)}]}}'.encode(), "")
    lists = {word: given for word, given in found.items() if isinstance(given, document.Entries)}
    assert {word: list(given) for word, given in lists.items()} == small
    assert [len(given) for given in lists.values()] == [6, 0]


BAD = [
    ('{"value": "\\ud83d%s"}', "lone surrogate"),
    ('{"value": "%s", "id": "\\ude00"}', "lone surrogate"),
    ('{"value": "%s", "value": 1}', "stands twice"),
    ('{"value": "%s", "\\u0076alue": 1}', "stands twice"),
    ('{"value": "%s\\u12g4"}', "not JSON.*escape"),
    ('{"value": "%s\\x"}', "not JSON.*escape"),
    ('{"value": "%s\\', "not JSON"),
    ('{"value": "%s\n"}', "not JSON.*control character"),
    ('{"value": [NaN, "%s"]}', "not JSON.*NaN"),
    ('{"value": "%s"} x', "not JSON.*Extra data"),
    ('["%s"]', "not an object"),
    ('{"value": "%s", "id": {"a": 1, "a": 2}}', "stands twice"),
    ('{"value": "%s", "id": 1e999}', "larger than"),
]


@pytest.mark.parametrize(("text", "why"), BAD)
def test_what_is_wrong_in_a_large_text_is_told_as_in_a_small_one(text: str, why: str) -> None:
    for pad in ("", PAD):
        with pytest.raises(BadRequest, match=why):
            document.read(text.replace("%s", pad).encode(), "", "value")


@pytest.mark.parametrize(
    "text", ['{"id": "%s"}', '{"%s": 1}', '{"id": ["%s"]}', '{"a": "%h", "b": "%h"}', '{"%h": "%h"}']
)
def test_what_is_not_passed_on_is_small(text: str) -> None:
    filled = text.replace("%s", PAD).replace("%h", PAD[: 40 << 10]).encode()
    with pytest.raises(TooLarge, match="65536 bytes"):
        document.read(filled, "", "value")


def test_an_entry_of_a_large_list_is_small() -> None:
    found = document.read(f'{{"a": [1, "{PAD}"]}}'.encode(), "")
    with pytest.raises(TooLarge, match="at most 65536 are allowed"):
        list(cast(document.Entries, found["a"]))
