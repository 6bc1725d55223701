"""Waiting until a node holds nothing any more.

The order to empty it is given; the cluster carries it out whether anybody waits or not.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from kvstore.cli.survey import survey_endpoints
from kvstore.errors import InvalidArgument, Unavailable
from kvstore.sharding.shard_map import NodeState

if TYPE_CHECKING:
    from collections.abc import Callable

    from kvstore.cli.endpoints import Endpoints
    from kvstore.ids import NodeId
    from kvstore.sharding.shard_map import ShardMap

POLL_S: Final = 0.2


@dataclass(frozen=True, slots=True)
class Emptying:
    """How far it is, by one map."""

    left: int
    """Replicas that the node holds, those that are on their way to it among them."""
    is_over: bool
    undone: str = ""
    """Why it will never be over: an order of somebody else."""


def judge(shard_map: ShardMap, node: NodeId, wanted: NodeState) -> Emptying:
    """Whether ``node`` is empty, and if it is to be removed, removed.

    Args:
        shard_map: Of the version that the order has made, or later.
        node: Its name.
        wanted: DRAINING or REMOVING, as was ordered.
    """
    if node in shard_map.removed or not shard_map.has(node):
        return Emptying(0, is_over=True)
    state = shard_map.node(node).state
    left = len(shard_map.held_by(node))
    if state is not wanted and state is not NodeState.REMOVING:
        return Emptying(left, False, f"{node} is {state.value} again, by another order")
    return Emptying(left, is_over=left == 0 and wanted is NodeState.DRAINING)


async def wait_until_empty(
    endpoints: Endpoints,
    node: NodeId,
    wanted: NodeState,
    *,
    map_version: int,
    timeout_s: float | None,
    tell: Callable[[int], None],
) -> int:
    """Wait as long as it takes, or ``timeout_s``; asks the cluster again and again.

    Args:
        endpoints: Where to ask.
        node: Which one is to be empty.
        wanted: DRAINING or REMOVING, as was ordered.
        map_version: That the order has made.
        timeout_s: None: for ever.
        tell: Told how many replicas are left.

    Returns:
        How many replicas there were when it began.

    Raises:
        InvalidArgument: another order has undone it.
        Unavailable: it is not over in time; the order stands.
    """
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    began_with: int | None = None
    while True:
        shard_map = (await survey_endpoints(endpoints)).shard_map
        if shard_map is not None and shard_map.version >= map_version:
            now = judge(shard_map, node, wanted)
            if now.undone:
                raise InvalidArgument(now.undone)
            began_with = now.left if began_with is None else began_with
            tell(now.left)
            if now.is_over:
                return began_with
            said = f"{node} still holds {now.left} replicas"
        else:
            said = "no node answers"
        if deadline is not None and time.monotonic() >= deadline:
            raise Unavailable(f"{said} after {timeout_s:g} s; the order stands")
        await asyncio.sleep(POLL_S)
