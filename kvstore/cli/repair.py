"""``kv repair``: a node whose data is lost or damaged gets it again from the others."""

from __future__ import annotations

import asyncio
import shlex
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from kvstore import config
from kvstore.cli import output
from kvstore.cli.exits import Exit
from kvstore.cli.options import Command, Settings
from kvstore.cli.progress import progress
from kvstore.cli.stakes import stakes
from kvstore.errors import InvalidArgument, KVError, of_file

if TYPE_CHECKING:
    from collections.abc import Callable

    from kvstore.config import NodeConfig
    from kvstore.server.repair import Repair
    from kvstore.storage.renewal import Renewed

F = TypeVar("F", bound="Callable[..., Any]")


@dataclass(frozen=True, slots=True)
class Chosen:
    """What the options of a repair said."""

    yes: bool
    force: bool
    discard: bool


def repair_options(command: F) -> F:
    """The options that every form of the command has."""
    for option in (
        click.option("--discard", is_flag=True, help="Remove the old data instead of keeping it."),
        click.option("--force", is_flag=True, help="Also if nothing is wrong, or others need it."),
        click.option("--yes", is_flag=True, help="Do not ask."),
    ):
        command = option(command)
    return command


@click.command(cls=Command)
@click.option(
    "--config",
    "config_file",
    required=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The node's settings, as for kv node start.",
)
@repair_options
@click.pass_obj
def repair(settings: Settings, /, config_file: Path, **chosen: bool) -> int:
    """Let a node whose data is lost or damaged get it again from the others.

    Run it on the node's machine while the node is stopped. What is wrong is looked for as at
    a start; a healthy node is left alone. The old data is moved aside, and at its next start
    the node joins its shards anew: first without a vote, then, when it has everything, as
    the voter it was. For that a majority of every shard's replicas must be alive elsewhere;
    where another repaired node has no vote yet, this one is not repaired.
    """
    start = f"kv node start --config {shlex.quote(str(config_file))}"
    return repair_data(settings, config.load(config_file), Chosen(**chosen), start=start)


def repair_data(settings: Settings, node: NodeConfig, chosen: Chosen, *, start: str) -> int:
    """Examine, explain, ask, repair.

    Args:
        settings: Of the command line.
        node: Whose data directory it is.
        chosen: How.
        start: The command that starts the node afterwards.

    Raises:
        InvalidArgument: nothing is wrong with the data, or the node could never come back, or
            the others need its data.
        StartupError: the node runs, or the directory cannot be used or changed.
    """
    from kvstore.server.repair import opened

    with opened(node) as held:
        found = _examine(held, node, chosen, start)
        _look_at_the_others(node, chosen)
        if not chosen.yes:
            _explain(node, found, chosen)
            if not _is_agreed(f"Repair {node.node_id}?"):
                output.note("kv: nothing was changed")
                return Exit.INTERRUPTED
        renewed = held.renew(int(time.time()), keep=not chosen.discard)
    _write_done(settings, node, found, renewed, chosen, start)
    return Exit.OK


def _examine(held: Repair, node: NodeConfig, chosen: Chosen, start: str) -> str:
    """What is wrong; only with ``--force`` may that be nothing, or not to be found out."""
    try:
        with progress(f"Looking at {node.data_dir}") as tell:
            found = held.examine(tell)
    except (KVError, OSError) as error:
        if not chosen.force:
            raise
        return of_file(error, node.data_dir) if isinstance(error, OSError) else error.message
    if found is not None:
        return found
    if not chosen.force:
        raise InvalidArgument(
            f"nothing is wrong with {node.data_dir}, the node can start ({start}); "
            "--force repairs it nevertheless"
        )
    return "nothing is wrong"


def _look_at_the_others(node: NodeConfig, chosen: Chosen) -> None:
    """Refuse, without ``--force``, to give up what the other nodes cannot do without."""
    from kvstore.cli.survey import survey_cluster

    with progress("Asking the other nodes"):
        survey = asyncio.run(survey_cluster(node.cluster))
    loss, risk = stakes(survey.view, node.node_id)
    if survey.shard_map is None:
        risk = f"no other node answers: nobody knows whether they need the data of {node.node_id}"
    if loss and not chosen.force:
        raise InvalidArgument(
            f"{loss}. Wait until kv status shows no learner there, or restore the data of "
            f"{node.node_id} from a copy; --force repairs nevertheless"
        )
    for said in filter(None, (loss, risk)):
        output.note(f"kv: warning: {said}")


def _explain(node: NodeConfig, found: str, chosen: Chosen) -> None:
    old = "removed for good" if chosen.discard else "moved aside, within the directory"
    for text in (
        f"{node.node_id} in {node.data_dir}: {found}",
        "",
        f"Its data will be {old}. At its next start the node is empty; the leader of each of",
        "its shards sends it everything and then gives it its vote back.",
        "",
        "For that, a majority of each shard's replicas must be alive on the other nodes. What",
        "only this node still had is given up, so do not repair two nodes at the same time.",
        "",
    ):
        output.note(text)


def _is_agreed(question: str) -> bool:
    """Ask until the answer is yes or no; no word is a no.

    Raises:
        InvalidArgument: there is nobody to ask.
    """
    while True:
        answer = _answer(f"{question} [y/N] ")
        if answer in (b"y", b"yes"):
            return True
        if answer in (b"n", b"no", b""):
            return False
        output.note("Please say y or n.")


def _answer(question: str) -> bytes:
    """The next line of stdin, in lower case."""
    try:
        output.ask(question)
        said = b"" if sys.stdin is None else sys.stdin.buffer.readline()
    except KeyboardInterrupt:
        output.note("")  # the question's line ends here
        raise
    if not said:
        output.note("")
        raise InvalidArgument("a repair needs an answer; --yes repairs without asking")
    return said.strip().lower()


def _write_done(
    settings: Settings,
    node: NodeConfig,
    found: str,
    renewed: Renewed,
    chosen: Chosen,
    start: str,
) -> None:
    aside = None if chosen.discard else renewed.set_aside
    if settings.format == "json":
        output.write_json(
            {
                "node": node.node_id,
                "data_dir": str(node.data_dir),
                "found": found,
                "life": renewed.life,
                "set_aside": None if aside is None else str(aside),
            }
        )
        return
    output.line(f"found: {found}")
    if aside is not None:
        output.line(f"the old data is in {aside}")
    output.line(f"{node.node_id} is repaired; start it with: {start}")
