"""Forms taken apart: percent signs and the parameters of multipart, held against slower and simpler readers."""

from __future__ import annotations

from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from restmq.http import forms as form
from restmq.model import urlencoded
from restmq.model.element import not_utf8
from restmq.model.errors import BadRequest

WORDS = st.lists(st.sampled_from([
    b"%", b"%%", b"%6", b"%61", b"%aF", b"%z", b"=", b"%3D", b"\r", b"\n", b"+", b"\0", b"6",
                                  b"g", b"\xff", b"%25"]), max_size=40).map(b"".join)  # fmt: skip


@given(WORDS, st.sampled_from([5, 7, 64 << 10]))
def test_percent_signs_are_read_as_python_reads_them(text: bytes, piece: int) -> None:
    before, urlencoded.PIECE = urlencoded.PIECE, piece
    try:
        assert urlencoded.unquote(text) == unquote_to_bytes(text)
    finally:
        urlencoded.PIECE = before


@given(st.binary(max_size=30), st.sampled_from(["", "é", "€", "\U0001f600"]), st.integers(0, 5))
def test_the_first_byte_that_is_no_utf8_is_found_across_pieces(tail: bytes, word: str, shift: int) -> None:
    text = b"a" * ((64 << 10) - shift) + word.encode() + tail
    try:
        text.decode("utf-8")
        wanted = -1
    except UnicodeDecodeError as error:
        wanted = error.start
    assert not_utf8(text) == wanted


PART = b'--X\r\nContent-Disposition: form-data; name="value"\r\n\r\nv'
GOOD = [
    (b'name="a\\"b\\\\c\\d"', b'a"b\\cd'),
    (b'name="\\\\\\\\"', b"\\\\"),
    (b"name=plain", b"plain"),
    (b'filename="x;name=no"; NAME = "no"'.replace(b" = ", b"="), b"no"),
    (b'name=""; filename="\\""', b""),
    (b'name=";"', b";"),
]


@pytest.mark.parametrize(("parameters", "name"), GOOD)
def test_a_name_is_unescaped_as_rfc_9110_has_it(parameters: bytes, name: bytes) -> None:
    body = b"--X\r\nContent-Disposition: form-data; " + parameters + b"\r\n\r\nv\r\n--X--\r\n"
    for boundary in (b"X", b'"X"', b'"\\X"', b"X; charset=utf-8"):
        assert form.multipart(b"multipart/form-data; boundary=" + boundary, body) == [(name, b"v")]


@pytest.mark.parametrize(
    "body",
    [
        PART,
        PART + b"\r\n--X-",
        PART + b"\r\n--X--x",
        PART + b"\r\n--X--\r\nbehind\r\n--X--\r\n",
        PART.replace(b'"value"', b'"value') + b"\r\n--X--\r\n",
        PART.replace(b'"value"', b'"value\\"') + b"\r\n--X--\r\n",
        PART.replace(b'"value"', b"\\\\") + b"\r\n--X--\r\n",
        PART.replace(b'"value"', b'"a"; name="b"') + b"\r\n--X--\r\n",
        PART.replace(b"; name", b"; a=b" * 30 + b"; name") + b"\r\n--X--\r\n",
        PART.replace(b"\r\n\r\n", b"\r\nA: b" * 30 + b"\r\n\r\n") + b"\r\n--X--\r\n",
        PART.replace(b"value", b"v" * 9000) + b"\r\n--X--\r\n",
        PART.replace(b"--X", b"--X junk") + b"\r\n--X--\r\n",
        b"--Y\r\n\r\n",
        b"",
    ],
)
def test_what_another_parser_might_read_another_way_is_refused(body: bytes) -> None:
    with pytest.raises(BadRequest):
        form.multipart(b"multipart/form-data; boundary=X", body)


@pytest.mark.parametrize("kind", [b"", b"; boundary=", b"; boundary=X; boundary=Y", b'; boundary="' + b"\\" * 9000,
                                  b"; boundary=" + b"x" * 71, b";a=b" * 1000 + b"; boundary=X"])  # fmt: skip
def test_a_form_says_its_boundary_once(kind: bytes) -> None:
    with pytest.raises(BadRequest):
        form.multipart(b"multipart/form-data" + kind, PART + b"\r\n--X--\r\n")


def test_what_stands_before_and_behind_the_parts_is_no_part() -> None:
    body = b"before\r\n" + PART + b"\r\n--X \t\r\n" + PART[5:] + b"\r\n--X-- \r\nbehind"
    assert form.multipart(b"multipart/form-data; boundary=X", body) == [(b"value", b"v")] * 2
