"""Waiting until a node holds nothing any more.

The order to empty it is given; the cluster carries it out whether anybody waits or not. Whoever
waits is told why nothing moves, as far as the shard map and those who answer show it.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from kvstore.cli.ordering import give
from kvstore.cli.outlook import Outlook
from kvstore.cli.survey import survey_endpoints
from kvstore.errors import InvalidArgument, KVError, Unavailable
from kvstore.ids import META_GROUP
from kvstore.sharding.shard_map import NodeState
from kvstore.wire.admin import Action, Order

if TYPE_CHECKING:
    from collections.abc import Callable

    from kvstore.cli.endpoints import Endpoints
    from kvstore.cli.survey import Survey
    from kvstore.ids import NodeId
    from kvstore.sharding.shard_map import ShardMap

POLL_S: Final = 0.2
SAY_AFTER_S: Final = 2.0
"""Why nothing moves is worth a word once it has been so for so long."""
ASK_AFTER_S: Final = 5.0
"""Where nothing moves and nobody can see why, the leader of the meta group is asked."""
ASK_S_MAX: Final = 5.0
NO_TAKER: Final = (
    "the leader of the meta group knows no node that could take a replica now (those that are "
    "dead to it cannot, nor for a while one that took in nothing)"
)


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


class Reason:
    """Why nothing moves, and whether that is to be said. Pure: the time is given by the caller."""

    def __init__(self, now: float) -> None:
        """Nothing is known yet at ``now``, in steady seconds."""
        self._since = self._moved_at = now
        self._version = 0
        self._said = ""
        self.why = ""
        """As of the last look; empty if something moves, or nobody knows."""

    def look(self, shard_map: ShardMap, why: str, now: float) -> str:
        """Take in what was seen; returns what is to be said now, which is mostly nothing."""
        if shard_map.version != self._version or shard_map.changes:
            self._version, self._moved_at = shard_map.version, now
        if why != self.why:
            self.why, self._since = why, now
        if not why or why == self._said or now - self._since < SAY_AFTER_S:
            return ""
        self._said = why
        return why

    def quiet_s(self, now: float) -> float:
        """For how long nothing was under way, and the map has stayed as it is."""
        return now - self._moved_at


class _Watch:
    """Looks why nothing moves off a node."""

    def __init__(self, endpoints: Endpoints, node: NodeId) -> None:
        self._endpoints = endpoints
        self._node = node
        self._reason = Reason(time.monotonic())
        self._ask_at = 0.0
        self._answer = ""

    @property
    def why(self) -> str:
        """As far as it is known."""
        return self._reason.why

    async def look(self, survey: Survey, shard_map: ShardMap) -> str:
        """What is to be said of it now, which is mostly nothing."""
        statuses = [answer.status for answer in survey.answers.values()]
        why = Outlook(shard_map, statuses).held_up(self._node)
        if not why and self._reason.quiet_s(time.monotonic()) >= ASK_AFTER_S:
            why = await self._ask(shard_map)
        return self._reason.look(shard_map, why, time.monotonic())

    async def _ask(self, shard_map: ShardMap) -> str:
        """What keeps the leader of the meta group from moving shards, now and then anew."""
        if not shard_map.held_by(self._node).keys() - {META_GROUP}:
            return ""
        if time.monotonic() >= self._ask_at:
            try:
                reply = await give(self._endpoints, Order(Action.PLAN), timeout_s=ASK_S_MAX)
            except KVError as error:
                self._answer = error.message
            else:
                can_go = any(move.remove == self._node for move in reply.moves)
                self._answer = "" if can_go else NO_TAKER
            self._ask_at = time.monotonic() + ASK_AFTER_S
        return self._answer


async def wait_until_empty(
    endpoints: Endpoints,
    node: NodeId,
    wanted: NodeState,
    *,
    map_version: int,
    timeout_s: float | None,
    tell: Callable[[int], None],
    explain: Callable[[str], None],
) -> int:
    """Wait as long as it takes, or ``timeout_s``; asks the cluster again and again.

    Args:
        endpoints: Where to ask.
        node: Which one is to be empty.
        wanted: DRAINING or REMOVING, as was ordered.
        map_version: That the order has made.
        timeout_s: None: for ever.
        tell: Told how many replicas are left.
        explain: Told why nothing moves, once for each reason.

    Returns:
        How many replicas there were when it began.

    Raises:
        InvalidArgument: another order has undone it.
        Unavailable: it is not over in time; the order stands.
    """
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    began_with: int | None = None
    watch = _Watch(endpoints, node)
    while True:
        survey = await survey_endpoints(endpoints)
        shard_map = survey.shard_map
        if not survey.answers:
            said = "no node answers"
        elif shard_map is not None and shard_map.version >= map_version:
            now = judge(shard_map, node, wanted)
            if now.undone:
                raise InvalidArgument(now.undone)
            began_with = now.left if began_with is None else began_with
            tell(now.left)
            if now.is_over:
                return began_with
            said = f"{node} still holds {replicas(now.left)}"
            if not now.left:
                said = f"{node} holds nothing any more, but has yet to take note of it"
            if why := await watch.look(survey, shard_map):
                explain(f"{said}: {why}")
        else:
            said = "no node that answers knows of the order yet"
        if deadline is not None and time.monotonic() >= deadline:
            why = f" ({watch.why})" if watch.why else ""
            raise Unavailable(f"{said} after {timeout_s:g} s{why}; {stands(node)}")
        await asyncio.sleep(POLL_S)


def stands(node: NodeId) -> str:
    """What becomes of an order for which nobody waits any more."""
    return f"the order stands (kv node activate {node} undoes it)"


def replicas(count: int) -> str:
    """``1 replica``, ``3 replicas``."""
    return "1 replica" if count == 1 else f"{count} replicas"
