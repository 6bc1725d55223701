"""Histories on disk: what is saved comes back, what is damaged is refused with its line."""

from __future__ import annotations

import json
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from histories.files import HistoryFileError, load, save
from histories.model import (
    Action,
    CompareAndSwap,
    Delete,
    Get,
    Increment,
    Operation,
    Put,
    Result,
)

HISTORY = [
    Operation("alice", b"k", Put(b"x"), 0.1, 0.25),
    Operation("bob", b"\xff\x00", Get(), 0.5, 1.0, b"\xfe"),
    Operation("bob", b"k", Get(), 1.5, 2.0, None),
    Operation("eve", b"k", Delete(), 2.0, 2.0, True),
    Operation("eve", b"k", CompareAndSwap(None, b""), 2.5, 3.0, False),
    Operation("eve", b"k", CompareAndSwap(b"x", "é\u2028\n".encode()), 2.5, None),
    Operation("bob", b"n", Increment(), 3.0, 4.0, 1),
    Operation("bob", b"n", Increment(-3), 3.0, None),
]

LINES = len(HISTORY) + 2


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "history.jsonl"
    save(path, HISTORY)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(HistoryFileError) as caught:
        load(path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(path))
    return message.removeprefix(str(path))


def change_record(path: Path, line: int, **fields: Any) -> None:
    lines = path.read_text(encoding="utf-8").split("\n")
    lines[line - 1] = json.dumps(json.loads(lines[line - 1]) | fields)
    path.write_text("\n".join(lines), encoding="utf-8")


def test_what_is_saved_comes_back(path: Path) -> None:
    assert load(path) == HISTORY
    assert len(path.read_text(encoding="utf-8").split("\n")) == LINES + 1


def test_no_operations_are_a_history_too(tmp_path: Path) -> None:
    save(tmp_path / "empty", [])
    assert load(tmp_path / "empty") == []


texts = st.binary(max_size=6)
results: dict[type[Action], st.SearchStrategy[Result]] = {
    Get: st.none() | texts,
    Put: st.none(),
    Delete: st.booleans(),
    CompareAndSwap: st.booleans(),
    Increment: st.integers(),
}


@st.composite
def operations(draw: st.DrawFn) -> Operation:
    action = draw(
        st.one_of(
            st.builds(Get),
            st.builds(Put, texts),
            st.builds(Delete),
            st.builds(CompareAndSwap, st.none() | texts, texts),
            st.builds(Increment, st.integers()),
        )
    )
    called = draw(st.floats(-1e9, 1e9))
    client, key = draw(st.text(st.characters(codec="utf-8"), max_size=5)), draw(texts)
    if draw(st.booleans()):
        return Operation(client, key, action, called, None)
    returned = called + draw(st.floats(0, 1e3))
    return Operation(client, key, action, called, returned, draw(results[type(action)]))


@settings(max_examples=100)
@given(st.lists(operations(), max_size=5))
def test_any_history_comes_back(history: list[Operation]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "history"
        save(path, history)
        assert load(path) == history


def test_a_file_cut_at_any_byte_is_refused(path: Path) -> None:
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(HistoryFileError, match=r"history\.jsonl:\d+: "):
            load(path)


@settings(max_examples=200)
@given(st.data())
def test_a_changed_byte_never_ends_in_anything_but_a_whole_history_or_a_refusal(
    data: st.DataObject,
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "history.jsonl"
        save(path, HISTORY)
        raw = bytearray(path.read_bytes())
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
        path.write_bytes(raw)
        with suppress(HistoryFileError):
            assert len(load(path)) == len(HISTORY)


@pytest.mark.parametrize(
    ("line", "fields", "message"),
    [
        (1, {"version": 2}, ":1: version 2 of the format; only 1 is known here"),
        (1, {"format": "shopping list"}, ":1: no header"),
        (2, {"action": "steal"}, ":2: action 'steal' is none of get, put"),
        (2, {"action": ["put"]}, ":2: action ['put'] is none of get, put"),
        (2, {"mood": 1}, ":2: missing or unknown fields: 'mood'"),
        (2, {"client": 7}, ":2: client 7 is no text"),
        (2, {"client": "\ud800"}, ":2: client '\\ud800' is no text"),
        (2, {"key": {"base64": "!"}}, ":2: key {'base64': '!'} is neither text nor"),
        (2, {"key": {"base64": 7}}, ":2: key {'base64': 7} is neither text nor"),
        (2, {"key": None}, ":2: key None is neither text nor"),
        (2, {"key": "\ud800"}, ":2: key '\\ud800' is neither text nor"),
        (2, {"called": "noon"}, ":2: called 'noon' is no time in seconds"),
        (2, {"called": True}, ":2: called True is no time in seconds"),
        (2, {"called": 10**400}, ":2: called 1000"),
        (2, {"returned": float("inf")}, ":2: returned inf is no time in seconds"),
        (2, {"returned": -1}, ":2: returned at -1.0, before it was called"),
        (2, {"result": "x"}, ":2: Put cannot result in b'x'"),
        (3, {"result": 1.5}, ":3: result 1.5 is neither text nor"),
        (5, {"result": 1}, ":5: Delete cannot result in 1"),
        (8, {"by": 0.5}, ":8: by 0.5 is no whole number"),
        (8, {"by": 10**4000}, ":8: an increment is a number of at most 40 digits"),
        (8, {"result": 10**4000}, ":8: Increment cannot result in more than 40 digits"),
        (9, {"result": 4}, ":9: an operation of unknown outcome"),
        (LINES, {"operations": 7}, f":{LINES}: the footer counts 7 operations, but there are 8"),
    ],
)
def test_a_wrong_field_is_refused_with_its_line(
    path: Path, line: int, fields: dict[str, Any], message: str
) -> None:
    change_record(path, line, **fields)
    assert message in refusal(path)


@pytest.mark.parametrize(
    ("line", "raw", "message"),
    [
        (3, b"\xff", ":3: no UTF-8 at byte 0"),
        (3, b"", ":3: an empty line"),
        (3, b"[]", ":3: no JSON object"),
        (3, b"{", ":3: no JSON; the file was cut or is damaged"),
        (3, b"[" * 100_000, ":3: no JSON; the file was cut or is damaged"),
    ],
)
def test_a_line_that_is_no_record_is_refused(
    path: Path, line: int, raw: bytes, message: str
) -> None:
    lines = path.read_bytes().split(b"\n")
    lines[line - 1] = raw
    path.write_bytes(b"\n".join(lines))
    assert message in refusal(path)


def test_a_lost_line_is_noticed(path: Path) -> None:
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join(lines[:3] + lines[4:]))
    assert "counts 8 operations, but there are 7" in refusal(path)


def test_lines_after_the_footer_are_refused(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"{}\n")
    assert "not the last" in refusal(path)


def test_what_is_not_there_or_no_file_is_refused(tmp_path: Path) -> None:
    assert "No such file" in refusal(tmp_path / "missing")
    assert "directory" in refusal(tmp_path)
