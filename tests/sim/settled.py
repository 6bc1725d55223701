"""What a controlled cluster must come to once nobody disturbs it any more."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvstore.ids import META_GROUP, GroupId, life_of
from kvstore.server.reshaping import _named
from kvstore.sharding.shard_map import NodeState, meta_size
from kvstore.storage import stays

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from kvstore.server.shard_host import ShardHost
    from kvstore.sharding.shard_map import ShardMap
    from sim.checks import Checks
    from sim.node import SimNode


def what_is_left(checks: Checks, nodes: Sequence[SimNode]) -> str:
    """What is not yet as it must be, in a few words; empty when all is.

    Args:
        checks: Know all maps.
        nodes: Those that are part of the cluster.
    """
    newest = checks.maps.newest
    if newest is None:
        return "nobody knows a map"
    return next(
        (
            told
            for found in (_of_map(newest, nodes), _of_nodes(checks, newest, nodes))
            for told in found
        ),
        "",
    )


def _of_map(newest: ShardMap, nodes: Sequence[SimNode]) -> Iterator[str]:
    """What the map itself must say."""
    if newest.changes:
        yield f"{newest.changes} go on"
    if newest.is_rebalancing:
        yield "the load is being made even"
    names = {node.id for node in nodes}
    if {node.id for node in newest.nodes} != names:
        yield f"{[node.id for node in newest.nodes]} are in the map, and {sorted(names)} are there"
    for node in newest.nodes:
        if node.state in (NodeState.LOST, NodeState.REMOVING):
            yield f"{node.id} is {node.state.value}"
    takers = {node.id for node in newest.nodes if node.state is NodeState.ACTIVE}
    for group in newest.groups():
        held = [replica.node for replica in newest.members(group)]
        wanted = meta_size(len(takers)) if group == META_GROUP else newest.replication
        if len(held) != min(wanted, len(takers)) or not takers.issuperset(held):
            yield f"group {group} is on {held}, of {sorted(takers)}"


def _of_nodes(checks: Checks, newest: ShardMap, nodes: Sequence[SimNode]) -> Iterator[str]:
    """What each node must hold, and that it holds nothing else."""
    for node in nodes:
        if not node.is_up or node.shard_map != newest:
            yield f"{node.id} does not go by version {newest.version}"
            continue
        wanted = newest.held_by(node.id)
        hosts = {group: _named(host.core.replica) for group, host in node.driver.hosts.items()}
        if hosts != wanted:
            yield f"{node.id} runs {hosts}, not {wanted}"
        there = {
            "stamps": set(stays.groups_held(node.engine)),
            "rows": set(stays.groups_with_rows(node.engine)),
            "a log": checks.held.groups_of(node),
        }
        for what, groups in there.items():
            if groups - wanted.keys():
                yield f"{node.id} has {what} of {sorted(groups - wanted.keys())}"
    for group in newest.groups():
        yield from _of_group(group, newest, nodes)


def _of_group(group: GroupId, newest: ShardMap, nodes: Sequence[SimNode]) -> Iterator[str]:
    hosts: list[ShardHost] = [
        node.driver.hosts[group] for node in nodes if node.is_up and group in node.driver.hosts
    ]
    leaders = [host for host in hosts if host.is_leader]
    if len(leaders) != 1:
        yield f"group {group} has {len(leaders)} leaders"
        return
    config = leaders[0].core.committed_config
    lives = {_named(host.core.replica): life_of(host.core.replica) for host in hosts}
    voters = {_named(replica) for replica in config.voters}
    if voters != {replica.id for replica in newest.members(group)}:
        yield f"group {group} has {config}, not {newest.members(group)}"
    if config.voters_outgoing or config.learners or config.learners_next:
        yield f"group {group} has {config}"
    if any(life_of(replica) != lives.get(_named(replica)) for replica in config.voters):
        yield f"group {group} has {config}, of lives {lives}"
