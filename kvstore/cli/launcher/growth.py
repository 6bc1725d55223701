"""One node more for a local cluster, or one less.

A node's number and so its name are never used again, whoever gave them: a node is known by its
name for good, also one that was removed, or that only tried to join. The cluster's file names a
node from before its process is started until it was stopped, so that nothing runs unknown.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING

from kvstore import config
from kvstore.cli.asking import ask_first
from kvstore.cli.conversation import ANSWER_WAIT_S
from kvstore.cli.endpoints import Endpoints
from kvstore.cli.launcher import layout as layouts
from kvstore.cli.launcher.cluster import of_layout, remove_files
from kvstore.cli.launcher.layout import NODES_MAX
from kvstore.cli.launcher.node import stop
from kvstore.cli.survey import survey_cluster
from kvstore.errors import InvalidArgument, Unavailable
from kvstore.wire.kinds import Kind
from kvstore.wire.membership import decode_members_reply

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kvstore.cli.launcher.cluster import Cluster
    from kvstore.cli.launcher.layout import Layout
    from kvstore.cli.launcher.node import Node

_NAME = re.compile(r"n([1-9][0-9]{0,4})")


def next_number(layout: Layout, names: Iterable[str], last_number: int) -> int:
    """The number of the next node: above all that were ever used, and nothing in its place.

    Args:
        layout: Of the cluster; what lies in its directory is looked at.
        names: Of all members, former ones and whoever only tried to be one.
        last_number: The highest that the shard map has ever given.

    Raises:
        InvalidArgument: The launcher has no port for another node.
    """
    named = [int(match[1]) for name in names if (match := _NAME.fullmatch(name))]
    number = max([*layout.spec.numbers_used, last_number, *named]) + 1
    while layout.files_of(number).directory.exists():
        number += 1
    if number > NODES_MAX:
        raise InvalidArgument(
            f"n{number} would be the next node, and kv cluster has ports up to n{NODES_MAX}: "
            "start others by kv node start --join"
        )
    return number


async def names_used(cluster: Cluster) -> tuple[set[str], int]:
    """Every name that the cluster has heard of, and the highest number that its map has given.

    Raises:
        Unavailable: no node answers.
    """
    spec = cluster.layout.spec.config()
    survey = await survey_cluster(spec)
    shard_map = survey.shard_map
    if shard_map is None or not survey.answers:
        raise survey.refusal or Unavailable("the cluster does not run (kv cluster up)")
    answer = await ask_first(
        Endpoints(tuple(survey.answers), spec), Kind.MEMBERS, wait_s=ANSWER_WAIT_S
    )
    met = {row.id for row in decode_members_reply(answer.body).members}
    return {*met, *(node.id for node in shard_map.nodes), *shard_map.removed}, shard_map.last_number


def add(cluster: Cluster, number: int, *, weight: float, zone: str) -> tuple[Cluster, Node]:
    """Make the files of a node that joins; not started yet.

    Raises:
        ConfigError: ``weight`` or ``zone`` cannot be.
        InvalidArgument: There is no port of that number.
    """
    layout = cluster.layout.with_added(number)
    layout.spec.check()
    text = layouts.joining_toml(layout, number, weight=weight, zone=zone)
    files = layout.files_of(number)
    config.parse(text, source="kv cluster add", relative_to=files.directory)
    files.directory.mkdir()
    layouts.write_atomically(files.config_file, text)
    layouts.save_spec(layout)
    grown = of_layout(layout)
    return grown, grown.node(files.id)


def discard(cluster: Cluster, node: Node) -> None:
    """Stop a node that has not become a member; nothing of it is left."""
    stop([node])
    remove_files(node)
    layouts.save_spec(cluster.layout.without_added(cluster.layout.number_of(node.id)))


def retire(cluster: Cluster, node: Node) -> bool:
    """Stop a node that is no member any more; its files stay until the cluster's are removed.

    Returns:
        Whether it ran.
    """
    is_running = node.pid() is not None
    stop([node])
    layouts.save_spec(cluster.layout.with_removed(cluster.layout.number_of(node.id)))
    return is_running


def retire_removed(cluster: Cluster) -> tuple[Cluster, list[Node]]:
    """Retire the nodes that the cluster has removed without this launcher.

    Returns:
        The cluster without them, and them.
    """
    shard_map = asyncio.run(survey_cluster(cluster.layout.spec.config())).shard_map
    removed = () if shard_map is None else shard_map.removed
    gone = [node for node in cluster.nodes if node.id in removed]
    for node in gone:
        retire(cluster, node)
        number = cluster.layout.number_of(node.id)
        cluster = of_layout(cluster.layout.with_removed(number))
    return cluster, gone
