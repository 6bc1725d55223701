"""Writing results: the four formats that every command understands.

``simple`` is for reading and for pipes, ``json`` for programs, ``table`` for the eye, and
``raw`` gives stored bytes with nothing added. Results go to stdout, all else to stderr.
"""

from __future__ import annotations

import errno
import json
import os
import select
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

FORMATS = ("simple", "json", "table", "raw")


def write(data: bytes) -> None:
    """Put ``data`` on stdout as it is."""
    sys.stdout.buffer.write(data)


def line(text: str) -> None:
    """Put one line on stdout, as UTF-8 whatever the locale says."""
    write(text.encode("utf-8", errors="surrogateescape") + b"\n")


def flush() -> None:
    """Let a reader see what was put on stdout so far."""
    sys.stdout.flush()


def pause(seconds: float) -> None:
    """Wait, but not for whoever reads stdout no more.

    Raises:
        BrokenPipeError: there is no reader left.
    """
    stdout = select.poll()
    stdout.register(sys.stdout, 0)  # errors and the end are told without being asked for
    if stdout.poll(seconds * 1000):
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


def note(text: str) -> None:
    """Tell a person something that is not the result."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def ask(text: str) -> None:
    """Put a question to a person, who answers on the same line."""
    sys.stderr.write(text)
    sys.stderr.flush()


def dump(value: Any) -> str:
    """``value`` as JSON on one line, text left readable."""
    return json.dumps(value, ensure_ascii=False)


def write_json(value: Any) -> None:
    """Put ``value`` on stdout as one line of JSON."""
    line(dump(value))


def columns(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of aligned columns, two spaces apart, under an upper-case header."""
    table = [tuple(name.upper() for name in header), *rows]
    widths = [max(len(row[i]) for row in table) for i in range(len(header))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in table
    ]


def write_rows(format_: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Put rows on stdout: a drawn table for ``table``, else aligned columns."""
    if format_ == "table":
        write_table(header, rows)
        return
    for text in columns(header, rows):
        line(text)


def write_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Put a drawn table on stdout; a terminal folds long cells, a pipe gets them whole."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.ROUNDED, header_style="bold")
    for name in header:
        table.add_column(name, overflow="fold")
    # What the terminal cannot show is escaped before the columns are measured.
    encoding = sys.stdout.encoding or "utf-8"
    for row in rows:
        table.add_row(*(Text(_shown_in(encoding, cell)) for cell in row))
    width = None if sys.stdout.isatty() else 100_000
    Console(file=sys.stdout, width=width).print(table)


def _shown_in(encoding: str, text: str) -> str:
    return text.encode(encoding, errors="backslashreplace").decode(encoding)
