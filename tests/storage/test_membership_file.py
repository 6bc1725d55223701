"""What a node keeps of the membership: all of it comes back, or nothing does."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from kvstore.ids import NodeId
from kvstore.storage.files import OsFiles
from kvstore.storage.membership_file import Remembered, load, save
from kvstore.swim.claims import Claim, Metadata, State

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

N2, N3, N4 = NodeId("n2"), NodeId("n3"), NodeId("n4")
KNOWN = Remembered(
    7,
    1_700_000_000_000,
    (
        (Claim(N2, State.ALIVE, 3, Metadata("h:1", "zöne", 2.5, "0.1.0")), 1.5),
        (Claim(N3, State.DEAD, 1, Metadata("h:2"), N2), 2.25),
        (Claim(N4, State.REMOVED, 0), 0.0),
    ),
)


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "membership.json"
    save(OsFiles(), path, KNOWN)
    assert load(path) == KNOWN
    save(OsFiles(), path, Remembered(8))
    assert load(path) == Remembered(8)


def test_at_first_there_is_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert load(tmp_path / "membership.json") == Remembered()
    assert caplog.records == []


def test_a_damaged_file_is_as_good_as_none_and_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "membership.json"
    save(OsFiles(), path, KNOWN)
    whole = path.read_bytes()
    damaged = [whole[:cut] for cut in range(0, len(whole), 7)]
    damaged += [b"[]", b"7", b"{}", b"\xff", b"[" * 100_000, whole.replace(b"h:1", b"h:9")]
    damaged += [whole.replace(b'"format": 1', b'"format": 2')]
    with caplog.at_level(logging.WARNING):
        for data in damaged:
            path.write_bytes(data)
            assert load(path) == Remembered()
    assert len(caplog.records) == len(damaged)
    assert "the membership is learned anew" in caplog.text
