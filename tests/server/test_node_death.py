"""A node that must stop says why: in one line if the disk did it, with a trace if it may be us."""

from __future__ import annotations

import logging
import os

import pytest

from kvstore.errors import CorruptionError, Internal
from kvstore.server import fatal
from kvstore.storage.files import OsFiles, sync


class Left(BaseException):
    """In place of the end of the process."""


def failed_sync(tmp_fd: int) -> BaseException:
    class Failing(OsFiles):
        def sync(self, fd: int) -> None:
            raise OSError(5, "Input/output error")

    with pytest.raises(Internal) as failure:
        sync(Failing(), tmp_fd, "the log")  # type: ignore[arg-type]  # only shown
    return failure.value


@pytest.mark.parametrize(
    ("error", "has_trace", "advice"),
    [
        (
            CorruptionError("block checksum mismatch", file="7.sst", offset=512),
            False,
            " (to get its data again from the other nodes: kv repair --config FILE)",
        ),
        (failed_sync(0), False, ""),
        (Internal("a rule is broken"), True, ""),
        (AssertionError("a rule is broken"), True, ""),
    ],
    ids=["damage", "a failed sync", "internal", "a bug"],
)
def test_the_last_words(
    error: BaseException,
    has_trace: bool,
    advice: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def leave(code: int) -> None:
        assert code == fatal.EXIT_FATAL
        raise Left

    monkeypatch.setattr(os, "_exit", leave)
    monkeypatch.setattr(logging, "shutdown", lambda: None)
    with pytest.raises(Left):
        fatal.die(error)
    (record,) = caplog.records
    assert record.getMessage() == f"this node stops at once: {error}{advice}"
    assert bool(record.exc_info) == has_trace
