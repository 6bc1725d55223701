"""How the test programs take their arguments: what is wrong with one is said in one line."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from typing import NoReturn


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
