from __future__ import annotations

import pytest

from kvstore import errors
from kvstore.errors import KVError

LOCAL = {
    errors.StartupError,
    errors.ConfigError,
    errors.DataDirectoryError,
    errors.CorruptionError,
}
"""They end a process that has not begun to serve: nobody is there to be told."""
ERRORS = [
    error
    for error in vars(errors).values()
    if isinstance(error, type) and issubclass(error, KVError)
]
TRAVELLING = [error for error in ERRORS if error is not KVError and error not in LOCAL]


def test_each_error_has_a_code_of_its_own() -> None:
    codes = [error.code for error in ERRORS]
    assert len(set(codes)) == len(codes)


@pytest.mark.parametrize("error", TRAVELLING, ids=lambda error: error.code)
@pytest.mark.parametrize("may_have_applied", [True, False])
def test_an_error_is_the_same_at_the_other_end(
    error: type[KVError], may_have_applied: bool
) -> None:
    sent = error("what happened", may_have_applied=may_have_applied)
    found = errors.from_wire(sent.code, sent.message, may_have_applied=sent.may_have_applied)
    assert type(found) is error
    assert str(found) == found.message == "what happened"
    assert found.may_have_applied is may_have_applied
    assert found.retryable is sent.retryable


@pytest.mark.parametrize("code", ["", "of a newer version", "config", "corruption"])
def test_a_code_that_cannot_be_rebuilt_becomes_internal(code: str) -> None:
    found = errors.from_wire(code, "message", may_have_applied=True)
    assert type(found) is errors.Internal
    assert found.may_have_applied


def test_which_errors_invite_another_try() -> None:
    assert {error.code for error in TRAVELLING if error("").retryable} == {
        "unavailable",
        "deadline_exceeded",
        "overloaded",
        "disk_full",
        "not_leader",
    }
    assert errors.Internal("", retryable=True).retryable


def test_corruption_names_file_and_offset() -> None:
    error = errors.CorruptionError("checksum differs", file="/data/wal/7", offset=42)
    assert str(error) == "/data/wal/7: offset 42: checksum differs"
    assert (error.file, error.offset) == ("/data/wal/7", 42)


def test_a_copy_has_the_words_and_nothing_of_the_past() -> None:
    error = errors.NotLeader("ask n2", leader="n2", may_have_applied=True)
    try:
        try:
            raise KeyError("a cause")
        except KeyError as cause:
            raise error from cause
    except errors.NotLeader:
        copy = errors.copy_of(error)
    assert type(copy) is errors.NotLeader
    assert (str(copy), copy.message, copy.leader) == ("ask n2", "ask n2", "n2")
    assert (copy.may_have_applied, copy.retryable) == (True, True)
    assert (copy.__traceback__, copy.__cause__, copy.__context__) == (None, None, None)
    assert error.__cause__ is not None
