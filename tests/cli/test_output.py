"""What becomes of results where stdout is no UTF-8 terminal, or nobody reads it any more."""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING

import pytest

from kvstore.cli import output

if TYPE_CHECKING:
    from pathlib import Path


def test_a_table_escapes_what_stdout_cannot_express(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    stdout = io.TextIOWrapper(written, encoding="ascii")
    monkeypatch.setattr("sys.stdout", stdout)
    output.write_table(["key", "value"], [["ключ", "1"], ["a", "2"]])
    stdout.flush()
    lines = written.getvalue().decode("ascii").splitlines()
    assert r"\u043a\u043b\u044e\u0447 | 1" in lines[3]
    assert len({len(line) for line in lines}) == 1, "it was measured as it is written"


def test_a_pause_ends_when_the_reader_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    read_end, write_end = os.pipe()
    with os.fdopen(write_end, "w") as stdout:
        monkeypatch.setattr("sys.stdout", stdout)
        output.pause(0.001)
        os.close(read_end)
        with pytest.raises(BrokenPipeError):
            output.pause(60.0)
        monkeypatch.undo()


def test_a_file_has_no_reader_that_could_leave(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with (tmp_path / "out").open("w") as stdout:
        monkeypatch.setattr("sys.stdout", stdout)
        output.pause(0.001)
        monkeypatch.undo()
