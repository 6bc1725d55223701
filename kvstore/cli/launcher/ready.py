"""Waiting until a cluster, or one node that has come or come back, serves."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from kvstore.cli.survey import survey_cluster
from kvstore.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kvstore.cli.launcher.cluster import Cluster
    from kvstore.cli.launcher.node import Node
    from kvstore.cli.survey import Survey
    from kvstore.cli.view import ClusterView
    from kvstore.sharding.shard_map import MapNode

START_TIMEOUT_S = 30.0
_POLL_S = 0.05
_ANSWER_WAIT_S = 0.5


async def wait_until_led(
    cluster: Cluster,
    started: Sequence[Node],
    *,
    timeout_s: float = START_TIMEOUT_S,
    progress: Callable[[str], None],
) -> ClusterView:
    """Wait until every node of ``started`` answers and every shard has a leader.

    One that was removed from the cluster meanwhile need not answer.

    Raises:
        StartupError: a node of ``started`` has ended; its own words say why.
        Unavailable: ``timeout_s`` has passed; says what is still missing.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        for node in started:
            node.check_started()
        survey = await survey_cluster(cluster.layout.spec.config(), _ANSWER_WAIT_S)
        view = survey.view
        removed = () if survey.shard_map is None else survey.shard_map.removed
        wanted = {node.files.address for node in started if node.id not in removed}
        if view.is_led and wanted <= survey.answers.keys():
            return view
        if time.monotonic() >= deadline:
            raise Unavailable(f"not ready after {timeout_s:g} s: {'; '.join(view.missing())}")
        progress(
            f"{view.reachable} of {len(view.nodes)} nodes answer, "
            f"{view.led} of {len(view.shards)} shards have a leader"
        )
        await asyncio.sleep(_POLL_S)


async def wait_until_member(
    cluster: Cluster,
    node: Node,
    *,
    timeout_s: float = START_TIMEOUT_S,
    progress: Callable[[str], None],
) -> MapNode:
    """Wait until ``node`` answers by a shard map in which it stands itself.

    Raises:
        StartupError: the node has ended; its own words say why.
        Unavailable: ``timeout_s`` has passed; says what is still missing.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        node.check_started()
        survey = await survey_cluster(cluster.layout.spec.config(), _ANSWER_WAIT_S)
        answer = survey.answers.get(node.files.address)
        if answer is not None and answer.shard_map.has(node.id):
            return answer.shard_map.node(node.id)
        is_member = survey.shard_map is not None and survey.shard_map.has(node.id)
        lack = f"{node.id} is {'' if is_member else 'not '}a member"
        lack += ", but has not heard of it" if is_member else " yet"
        if time.monotonic() >= deadline:
            raise Unavailable(f"not ready after {timeout_s:g} s: {lack}")
        progress(lack)
        await asyncio.sleep(_POLL_S)


async def wait_until_serving(
    cluster: Cluster,
    node: Node,
    *,
    timeout_s: float = START_TIMEOUT_S,
    progress: Callable[[str], None],
) -> ClusterView:
    """Wait until ``node`` answers and has applied what was committed when it first did.

    A shard whose other replicas are gone cannot have a leader; it is not waited for.

    Raises:
        StartupError: the node has ended; its own words say why.
        Unavailable: ``timeout_s`` has passed; says how far the node is.
    """
    deadline = time.monotonic() + timeout_s
    goals: dict[int, int] = {}
    while True:
        node.check_started()
        survey = await survey_cluster(cluster.layout.spec.config(), _ANSWER_WAIT_S)
        lack = _lack(survey, node, goals)
        if lack is None:
            return survey.view
        if time.monotonic() >= deadline:
            raise Unavailable(f"not ready after {timeout_s:g} s: {lack}")
        progress(lack)
        await asyncio.sleep(_POLL_S)


def _lack(survey: Survey, node: Node, goals: dict[int, int]) -> str | None:
    """What ``node`` still lacks, None when it serves; the first leader seen sets a goal."""
    answer = survey.answers.get(node.files.address)
    if answer is None:
        return f"{node.id} does not answer"
    applied = {row["id"]: row["applied_index"] for row in answer.status["shards"]}
    behind = []
    for shard in survey.view.shards:
        if node.id not in shard.replicas or not shard.has_majority:
            continue
        if shard.leader is not None and shard.commit_index is not None:
            goals.setdefault(shard.id, shard.commit_index)
        goal = goals.get(shard.id)
        is_behind = goal is None or applied.get(shard.id, -1) < goal
        if is_behind or node.id in shard.learners:
            behind.append(str(shard.id))
    return f"{node.id} has not caught up on shard {', '.join(behind)}" if behind else None
