"""Exit codes, and an error's way to one line on stderr.

A shell script tells by the code what happened, a person by the line. Neither ever sees a
traceback, unless ``KV_DEBUG=1`` asks for it.
"""

from __future__ import annotations

from enum import IntEnum

import click

from kvstore.errors import InvalidArgument, KVError, Refused, StartupError


class Exit(IntEnum):
    """What the exit code of ``kv`` means."""

    OK = 0
    NOT_FOUND = 1
    USAGE = 2
    """Bad usage or input, a node that cannot start among it."""
    UNAVAILABLE = 3
    """Unavailable, timed out, or failed in a way that has no code of its own."""
    CONDITION_FAILED = 4
    REFUSED = 5
    INTERRUPTED = 130


def code_of(error: BaseException) -> Exit:
    """The exit code that tells what kind of failure ``error`` is."""
    match error:
        case KeyboardInterrupt() | click.Abort():
            return Exit.INTERRUPTED
        case InvalidArgument() | StartupError() | click.ClickException():
            return Exit.USAGE
        case OSError() if error.filename is not None:  # a file that somebody named
            return Exit.USAGE
        case Refused():
            return Exit.REFUSED
        case _:
            return Exit.UNAVAILABLE


def line_of(error: BaseException, *, is_write: bool) -> str:
    """One line about ``error``; after a write it says whether that may have happened."""
    message = _message(error)
    if is_write and not isinstance(error, click.ClickException):
        message += _outcome(error)
    return " ".join(message.split())


def _message(error: BaseException) -> str:
    match error:
        case KeyboardInterrupt() | click.Abort():
            return "interrupted"
        case click.NoSuchOption():
            hint = f'after "--" it is data; see: {_command_path(error)} --help'
            return f"{_sentence(error.format_message())} ({hint})"
        case click.UsageError():
            return f"{_sentence(error.format_message())} (see: {_command_path(error)} --help)"
        case click.ClickException():
            return _sentence(error.format_message())
        case KVError():
            return error.message
        case OSError() if error.strerror:
            where = f"{error.filename}: " if error.filename else ""
            return f"{where}{error.strerror}"
        case _:
            return f"unexpected {type(error).__name__}: {error} (KV_DEBUG=1 shows where)"


def _outcome(error: BaseException) -> str:
    if isinstance(error, KVError) and not error.may_have_applied:
        return "; the write did not happen"
    return "; the write may have happened"


def _command_path(error: click.UsageError) -> str:
    return error.ctx.command_path if error.ctx else "kv"


def _sentence(text: str) -> str:
    """Click's "No such thing." as the middle of a line: "no such thing"."""
    text = text.rstrip(".")
    return text[:1].lower() + text[1:]
