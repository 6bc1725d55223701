"""The command line as a whole: one root group, and one place where failures end."""

from __future__ import annotations

import os
import sys
import traceback
from typing import TYPE_CHECKING, Any

import click

from kvstore.cli import output
from kvstore.cli.exits import Exit, code_of, line_of
from kvstore.cli.options import Group, Settings

if TYPE_CHECKING:
    from collections.abc import Sequence

DEBUG_VARIABLE = "KV_DEBUG"

_EPILOG = """\b
Exit codes: 0 ok, 1 key not found, 2 bad usage or input, 3 unavailable or timed out,
4 condition failed, 5 refused, 130 interrupted."""


def _show_version(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if value:
        from importlib.metadata import version

        output.line(f"kv {version('kvstore')}")
        ctx.exit()


@click.group(
    cls=Group,
    epilog=_EPILOG,
    no_args_is_help=False,
    lazy={
        "put": "kvstore.cli.data:put",
        "get": "kvstore.cli.data:get",
        "delete": "kvstore.cli.data:delete",
        "scan": "kvstore.cli.data:scan",
        "status": "kvstore.cli.status:status",
        "locate": "kvstore.cli.status:locate",
        "shards": "kvstore.cli.shards:shards",
        "moves": "kvstore.cli.moves:moves",
        "rebalance": "kvstore.cli.balance:rebalance",
        "transfer": "kvstore.cli.balance:transfer",
        "members": "kvstore.cli.members:members",
        "events": "kvstore.cli.events:events",
        "verify": "kvstore.cli.verify:verify",
        "cluster": "kvstore.cli.cluster:cluster",
        "node": "kvstore.cli.node:node",
        "repair": "kvstore.cli.repair:repair",
    },
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Show the version and exit.",
)
def kv() -> None:
    """A sharded, replicated, ordered key-value store.

    Start a cluster on this machine with: kv cluster up
    """


def run(arguments: Sequence[str]) -> int:
    """Run one command line; the result is the exit code of the process."""
    _open_standard_streams()
    settings = Settings()
    try:
        code = _invoke(arguments, settings)
        sys.stdout.flush()
    except BrokenPipeError:
        return _reader_left()
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001  the last one to see it
        return _fail(error, settings)
    return code


def _open_standard_streams() -> None:
    """What the shell closed (``>&-``) goes nowhere; no socket may come by its number."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  for the rest of the process
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115


def _invoke(arguments: Sequence[str], settings: Settings) -> int:
    """Click's own ``main`` without its exits, so that the codes are ours."""
    try:
        with kv.make_context("kv", list(arguments), obj=settings) as ctx:
            result: Any = kv.invoke(ctx)
    except click.exceptions.Exit as exit_:
        return exit_.exit_code
    return Exit.OK if result is None else int(result)


def _fail(error: BaseException, settings: Settings) -> int:
    """Say what went wrong, after what was already printed."""
    try:
        sys.stdout.flush()
    except OSError:
        _reader_left()
    if os.environ.get(DEBUG_VARIABLE):
        traceback.print_exception(error)
    output.note(f"kv: {line_of(error, is_write=settings.is_write)}")
    return code_of(error)


def _reader_left() -> int:
    """``kv scan | head``: whoever read our output has enough; that is no failure of ours.

    What is still buffered goes nowhere, or the interpreter would complain at its exit.
    """
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
    return Exit.OK
