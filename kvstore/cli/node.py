"""``kv node``: one node in the foreground, and what the cluster is to do about a node."""

from __future__ import annotations

from pathlib import Path

import click

from kvstore.cli.options import Command, Group


@click.group(
    cls=Group,
    no_args_is_help=False,
    lazy={
        "start": "kvstore.cli.node:start",
        "drain": "kvstore.cli.fates:drain",
        "activate": "kvstore.cli.fates:activate",
        "remove": "kvstore.cli.fates:remove",
        "weight": "kvstore.cli.fates:weigh",
    },
)
def node() -> None:
    """Run one node of a cluster, or change what the cluster does about it."""


@click.command(cls=Command)
@click.option(
    "--config",
    "config_file",
    required=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The node's settings; configs/node.toml explains them all.",
)
@click.option(
    "--join",
    "seeds",
    default="",
    metavar="HOST:PORT[,...]",
    help="Nodes of the cluster to join, beside those in FILE; one that lives is enough.",
)
def start(config_file: Path, seeds: str) -> int:
    """Run the node that FILE describes until SIGTERM or Ctrl-C.

    Logs go to stderr. A node that cannot start says why in one line and exits with code 2.
    """
    from kvstore import config

    settings = config.with_seeds(config.load(config_file), seeds)

    from kvstore.server.process import run

    return run(settings, config_file)
