from __future__ import annotations

import base64
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvstore.cli.text import for_terminal, from_argument, json_value, readable


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        (b"plain", "plain"),
        ("é ☃ 日本".encode(), "é ☃ 日本"),
        (b"tab\there", "tab\\there"),
        (b"line\nbreak\r", "line\\nbreak\\r"),
        (b"back\\slash", "back\\\\slash"),
        (b"\xff\x00\x1b[31m", "\\xff\\x00\\x1b[31m"),
        ("\u202e\U000e0001".encode(), "\\u202e\\U000e0001"),
        (b"", ""),
    ],
)
def test_readable_fits_on_one_line(data: bytes, shown: str) -> None:
    assert readable(data) == shown


@given(st.binary())
def test_readable_is_printable_and_loses_nothing(data: bytes) -> None:
    shown = readable(data)
    assert shown.isprintable()
    back = b""
    rest = shown
    while rest:
        head, rest = rest[0], rest[1:]
        if head != "\\":
            back += head.encode()
            continue
        kind, rest = rest[0], rest[1:]
        digits = {"x": 2, "u": 4, "U": 8}.get(kind)
        if digits is None:
            back += {"t": b"\t", "n": b"\n", "r": b"\r", "\\": b"\\"}[kind]
            continue
        point, rest = int(rest[:digits], 16), rest[digits:]
        back += bytes([point]) if kind == "x" else chr(point).encode()
    assert back == data


def test_a_terminal_sees_lines_but_no_control_characters() -> None:
    assert for_terminal(b"a\tb\nc\\d\x1b[2J") == "a\tb\nc\\d\\x1b[2J"


@given(st.binary())
def test_json_marks_what_is_not_text(data: bytes) -> None:
    shown = json_value(data)
    if isinstance(shown, str):
        assert shown.encode() == data
    else:
        assert base64.b64decode(shown["base64"]) == data


def test_an_argument_that_is_not_utf8_keeps_its_bytes() -> None:
    assert from_argument(os.fsdecode(b"caf\xe9")) == b"caf\xe9"
    assert from_argument("café") == "café".encode()
