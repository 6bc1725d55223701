"""What a person sees while a command waits: lines that change, and only on a terminal."""

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


@contextmanager
def countdown(title: str, unit: str) -> Iterator[Callable[[int], None]]:
    """A bar that is full once the function this gives was told that nothing is left.

    Args:
        title: What is going on.
        unit: Of what is counted, such as "replicas left".
    """
    if not sys.stderr.isatty():
        yield lambda _left: None
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn(f"{{task.fields[left]}} {escape(unit)}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        bar = bars.add_task(escape(title), total=None, left="?")
        most = 0

        def tell(left: int) -> None:
            nonlocal most
            most = max(most, left)
            bars.update(bar, total=most, completed=most - left, left=left)

        yield tell
