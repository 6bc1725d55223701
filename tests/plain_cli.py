"""How the test programs take their arguments: what is wrong with one is said in one line."""

from __future__ import annotations

import asyncio
import math
import signal
import sys
from typing import TYPE_CHECKING, TypeVar

import click

if TYPE_CHECKING:
    from collections.abc import Awaitable
    from typing import Any, NoReturn

T = TypeVar("T")


class WholeNumber(click.IntRange):
    """A whole number in a range, asked for in words."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            number = int(value)
        except ValueError:
            self.fail(f"{value!r} is not a whole number", param, ctx)
        return super().convert(number, param, ctx)


class _Minutes(click.FloatRange):
    """Neither infinity nor "not a number", which no clock ever reaches."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not (math.isfinite(number) and number > 0):
            self.fail(f"{str(value)!r} is not a number of minutes above 0", param, ctx)
        return number


MINUTES = _Minutes(0, min_open=True)
"""How long: a finite number above 0."""


async def until_terminated(work: Awaitable[T]) -> T:
    """SIGTERM ends it as Ctrl-C does: every process that was started is ended too."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await work


def run(command: click.Command) -> NoReturn:
    """Run ``command`` with the process's arguments; exit code 2 for bad ones, 130 for Ctrl-C."""
    try:
        command.main(standalone_mode=False)
    except click.ClickException as error:
        click.echo(f"error: {error.format_message()}", err=True)
        sys.exit(2)
    except click.Abort:
        click.echo("interrupted", err=True)
        sys.exit(130)
    sys.exit(0)
