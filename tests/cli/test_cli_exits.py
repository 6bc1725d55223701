from __future__ import annotations

import click
import pytest

from kvstore import errors
from kvstore.cli.exits import Exit, code_of, line_of


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.InvalidArgument("x"), Exit.USAGE),
        (errors.ConfigError("x"), Exit.USAGE),
        (errors.CorruptionError("x", file="f", offset=1), Exit.USAGE),
        (click.UsageError("x"), Exit.USAGE),
        (PermissionError(13, "Permission denied", "/root/x"), Exit.USAGE),
        (errors.Unavailable("x"), Exit.UNAVAILABLE),
        (errors.DeadlineExceeded("x"), Exit.UNAVAILABLE),
        (errors.Overloaded("x"), Exit.UNAVAILABLE),
        (errors.SessionExpired("x"), Exit.UNAVAILABLE),
        (errors.Internal("x"), Exit.UNAVAILABLE),
        (ZeroDivisionError("a bug"), Exit.UNAVAILABLE),
        (errors.Refused("x"), Exit.REFUSED),
        (KeyboardInterrupt(), Exit.INTERRUPTED),
        (click.Abort(), Exit.INTERRUPTED),
    ],
)
def test_each_failure_has_its_code(error: BaseException, code: Exit) -> None:
    assert code_of(error) is code


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (errors.DeadlineExceeded("late", may_have_applied=True), "may have happened"),
        (errors.Unavailable("nobody"), "did not happen"),
        (KeyboardInterrupt(), "may have happened"),
        (ZeroDivisionError("a bug"), "may have happened"),
    ],
)
def test_after_a_write_the_line_says_what_may_have_happened(
    error: BaseException, said: str
) -> None:
    assert said in line_of(error, is_write=True)
    assert "happen" not in line_of(error, is_write=False)


def test_a_message_of_several_lines_becomes_one() -> None:
    line = line_of(errors.Internal("first\nsecond\r\n  third"), is_write=False)
    assert line == "first second third"


def test_an_unexpected_error_tells_how_to_see_more() -> None:
    assert "KV_DEBUG=1" in line_of(KeyError("k"), is_write=False)


def test_an_os_error_names_the_file() -> None:
    error = FileNotFoundError(2, "No such file or directory", "node.toml")
    assert line_of(error, is_write=False) == "node.toml: No such file or directory"
