"""What is at stake when a node's data is given up. Pure: a picture of the cluster in, words out.

A repaired node gets its data and its vote from a majority of the other replicas of each shard
(:mod:`kvstore.server.rejoin`). A replica that was repaired itself and has no vote yet is none
of those: where it leaves too few, the node's old data is the last that completes a majority,
and without it the shard could never elect a leader again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kvstore.cli.view import ClusterView, ShardView


NAMED_MAX = 8
"""Shards that are named one by one; of more, how many is enough."""


class Stakes(NamedTuple):
    """Sentences; empty where there is nothing to say."""

    loss: str
    """Which shards would certainly lose their majority, and why."""
    risk: str
    """Which might, for nobody knows about the replicas that do not answer."""


def stakes(view: ClusterView, node: str) -> Stakes:
    """What it would mean for the shards of ``view`` to do without the data that ``node`` has."""
    lost: list[int] = []
    doubtful: list[int] = []
    voteless: set[str] = set()
    silent: set[str] = set()
    for shard in view.shards:
        if node not in shard.replicas:
            continue
        learning, unreachable = ({*those} - {node} for those in (shard.learners, shard.unreachable))
        if not _is_majority(shard, without=learning | {node}):
            lost.append(shard.id)
            voteless |= learning
        elif not _is_majority(shard, without=learning | unreachable | {node}):
            doubtful.append(shard.id)
            silent |= unreachable
    loss = risk = ""
    if lost:
        loss = (
            f"repaired and still without a vote in {_shards(lost)}: {_names(voteless)}; "
            f"with the data of {node} gone too, no majority would be left there, for good"
        )
    if doubtful:
        risk = (
            f"no answer from {_names(silent)}: {node} cannot come back to {_shards(doubtful)} "
            "without, and if the data is lost there too, then for good"
        )
    return Stakes(loss, risk)


def _is_majority(shard: ShardView, *, without: set[str]) -> bool:
    left = [replica for replica in shard.replicas if replica not in without]
    return 2 * len(left) > len(shard.replicas)


def _names(nodes: Iterable[str]) -> str:
    return " and ".join(sorted(nodes))


def _shards(numbers: list[int]) -> str:
    if len(numbers) > NAMED_MAX:
        return f"{len(numbers)} shards"
    name = "shard" if len(numbers) == 1 else "shards"
    return f"{name} {', '.join(map(str, numbers))}"
