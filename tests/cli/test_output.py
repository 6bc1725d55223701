"""What becomes of results where stdout is no UTF-8 terminal, or nobody reads it any more."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from kvstore.cli import output

if TYPE_CHECKING:
    import pytest


def test_a_table_escapes_what_stdout_cannot_express(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    stdout = io.TextIOWrapper(written, encoding="ascii")
    monkeypatch.setattr("sys.stdout", stdout)
    output.write_table(["key", "value"], [["ключ", "1"], ["a", "2"]])
    stdout.flush()
    lines = written.getvalue().decode("ascii").splitlines()
    assert r"\u043a\u043b\u044e\u0447 | 1" in lines[3]
    assert len({len(line) for line in lines}) == 1, "it was measured as it is written"
