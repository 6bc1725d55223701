"""Compares the replicas of every shard at one applied index, also while clients write.

An index that every replica can still stop at must lie ahead of all of them, and be reached
soon. Nobody knows the pace of a shard beforehand, so it is found by trying: the first question
(index 0) only tells where each replica is; the next asks at the highest of those, which is
right for a shard at rest. If a replica had passed the index, the next one is chosen with twice
the lead; if none reached it, with a quarter. Once one replica was at an index all others will
come to it, so those that lag, restart or do not answer are asked for the same one again.

A node bounds the checksums that it makes at a time, so only few shards are compared at once.
They take turns: one that waits for a node that is down does not keep the others from it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import TYPE_CHECKING, Final

from kvstore.cli.conversation import ANSWER_WAIT_S, Conversation
from kvstore.cli.endpoints import Endpoints
from kvstore.cli.survey import survey_endpoints
from kvstore.cli.verdict import ShardVerdict, Verification, judge
from kvstore.config import ClusterConfig
from kvstore.errors import InvalidArgument, KVError, Unavailable
from kvstore.ids import LogIndex, NodeId, ShardId
from kvstore.wire.checksums import (
    ChecksumReply,
    ChecksumRequest,
    decode_checksum_reply,
    encode_checksum,
)
from kvstore.wire.kinds import Kind

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kvstore.sharding.shard_map import ShardMap

TIMEOUT_S_DEFAULT: Final = 30.0

AT_ONCE: Final = 2
"""Shards compared at a time."""

WAIT_MS: Final = 1500
"""How long replicas are to wait for an index to come."""

LEAD_MIN: Final = 4
LEAD_MAX: Final = 1 << 17
"""Entries by which an index lies ahead of the replicas, once they are known to move."""

TRIES_A_TURN: Final = 16
"""Indexes tried before the next shard gets its turn: enough to come up to any pace."""

TURN_PAUSE_S: Final = 0.1
"""Before a shard that could not be compared is tried again."""


async def verify_cluster(
    target: ClusterConfig | Endpoints,
    timeout_s: float = TIMEOUT_S_DEFAULT,
    shard: int | None = None,
) -> Verification:
    """Compare all replicas of all shards, or of one.

    Args:
        target: The nodes; of a cluster by its configuration, or some addresses of it.
        timeout_s: How long to go on trying where a replica cannot be compared.
        shard: Only this one.

    Returns:
        What was found, also when not everything could be compared in time.

    Raises:
        InvalidArgument: there is no such shard.
        Unavailable: no node answers.
        Refused: the nodes that answer are of another cluster.
    """
    deadline = asyncio.get_running_loop().time() + timeout_s
    endpoints = _endpoints(target)
    shard_map = await _shard_map(endpoints, deadline)
    if shard is not None and not 0 <= shard < shard_map.shards:
        raise InvalidArgument(f"there is no shard {shard}; the cluster has {shard_map.shards}")
    cluster_id = endpoints.cluster.id if endpoints.cluster is not None else None
    nodes = {node.id: Conversation(node.address, cluster_id) for node in shard_map.nodes}
    shards = [ShardId(shard)] if shard is not None else list(map(ShardId, range(shard_map.shards)))
    comparisons = [
        Comparison(each, {r.node: nodes[r.node] for r in shard_map.replicas_of(each)})
        for each in shards
    ]
    try:
        await _take_turns(comparisons, deadline)
    finally:
        for node in nodes.values():
            node.close()
    return Verification(tuple(comparison.verdict() for comparison in comparisons))


def _endpoints(target: ClusterConfig | Endpoints) -> Endpoints:
    if isinstance(target, ClusterConfig):
        return Endpoints(tuple(node.address for node in target.nodes), target)
    return target


async def _shard_map(endpoints: Endpoints, deadline: float) -> ShardMap:
    """The map, as soon as a node answers; without any there is nothing to compare."""
    loop = asyncio.get_running_loop()
    while True:
        answer_wait_s = min(ANSWER_WAIT_S, max(deadline - loop.time(), 0.001))
        survey = await survey_endpoints(endpoints, answer_wait_s)
        if survey.refusal is not None:
            raise survey.refusal
        if survey.answers and survey.shard_map is not None:
            return survey.shard_map
        if loop.time() + TURN_PAUSE_S >= deadline:
            raise Unavailable(f"no node answers at {endpoints}")
        await asyncio.sleep(TURN_PAUSE_S)


async def _take_turns(comparisons: Sequence[Comparison], deadline: float) -> None:
    """Give each comparison turns until it is complete or the time is over."""
    queue = deque(comparisons)

    async def work() -> None:
        while queue:
            comparison = queue.popleft()
            await comparison.turn()
            if not comparison.is_complete:
                queue.append(comparison)
                await asyncio.sleep(TURN_PAUSE_S)

    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout_at(deadline), asyncio.TaskGroup() as workers:
            for _ in range(min(AT_ONCE, len(comparisons))):
                workers.create_task(work())


class Comparison:
    """Of the replicas of one shard. Invariant: a checksum in ``_answers`` is at ``_index``."""

    def __init__(self, shard: ShardId, nodes: Mapping[NodeId, Conversation]) -> None:
        self.shard = shard
        self._nodes = nodes
        self._index = LogIndex(0)
        self._lead = 0
        self._answers: dict[NodeId, ChecksumReply | str] = dict.fromkeys(
            nodes, "was not asked in time"
        )
        self._differing: ShardVerdict | None = None

    @property
    def is_complete(self) -> bool:
        """Whether every replica was compared."""
        return all(map(_has_checksum, self._answers.values()))

    def verdict(self) -> ShardVerdict:
        """What is known so far. Replicas that once differed at one index have differed."""
        found = judge(self.shard, self._index, self._answers)
        return self._differing or found if found.is_equal is None else found

    async def turn(self) -> None:
        """Ask those that are missing, at other indexes while there is one to try at once."""
        for _ in range(TRIES_A_TURN):
            missing = [n for n, answer in self._answers.items() if not _has_checksum(answer)]
            await asyncio.gather(*map(self._ask, missing))
            if self.is_complete or not self._choose_next():
                return

    async def _ask(self, node: NodeId) -> None:
        """Keep its answer as it comes: the time may end while another's is still awaited."""
        index = self._index
        request = ChecksumRequest(self.shard, index, WAIT_MS)
        try:
            body = await self._nodes[node].ask(Kind.CHECKSUM, encode_checksum(request))
            self._answers[node] = decode_checksum_reply(body, index)
        except KVError as error:
            self._answers[node] = error.message

    def _choose_next(self) -> bool:
        """Another index, if this one is no good; whether it is to be tried at once."""
        answered = [
            answer for answer in self._answers.values() if isinstance(answer, ChecksumReply)
        ]
        highest = max((answer.index for answer in answered), default=self._index)
        if highest > self._index:
            if self._index:  # the first question was only where they are
                self._lead = min(max(2 * self._lead, LEAD_MIN), LEAD_MAX)
            self._begin_at(highest)
            return True
        if answered and not any(map(_has_checksum, answered)):
            self._lead //= 4
            self._begin_at(highest)
            return True
        return False

    def _begin_at(self, highest: LogIndex) -> None:
        """Checksums of another index are of no use any more; where replicas are still is."""
        found = self.verdict()
        if found.is_equal is False:
            self._differing = found
        self._index = LogIndex(highest + self._lead)
        for node, answer in self._answers.items():
            if isinstance(answer, ChecksumReply):
                self._answers[node] = answer._replace(checksum=None)


def _has_checksum(answer: ChecksumReply | str) -> bool:
    return not isinstance(answer, str) and answer.checksum is not None
