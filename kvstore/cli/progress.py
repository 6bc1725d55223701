"""What a person sees while a command waits: one line that changes, and only on a terminal."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@contextmanager
def progress(title: str) -> Iterator[Callable[[str], None]]:
    """Show ``title`` and the last thing told to the function this gives."""
    if not sys.stderr.isatty():
        yield lambda _text: None
        return
    from rich.console import Console
    from rich.markup import escape

    console = Console(stderr=True)
    with console.status(escape(title)) as status:
        yield lambda text: status.update(escape(f"{title}: {text}"))
