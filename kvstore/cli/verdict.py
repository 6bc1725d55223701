"""What comparing the replicas of a cluster has shown. Pure: checksums in, verdict out.

Replicas with one checksum at one applied index are equal. Where they differ, those that more
than half of the shard's replicas agree with are taken for right; without such a majority
nobody can tell, and all of them differ.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from kvstore.ids import LogIndex, NodeId, ShardId
from kvstore.wire.checksums import ChecksumReply


class State(StrEnum):
    """How a replica stands against the others."""

    OK = "ok"
    """Its checksum is that of the others."""
    DIFFERS = "differs"
    """Its checksum is another than that of a majority, or there is no majority."""
    BEHIND = "behind"
    """It answered, but did not reach the index in time."""
    AHEAD = "ahead"
    """It answered, but had passed the index each time."""
    UNREACHABLE = "unreachable"
    """It did not answer, or not with a checksum."""


@dataclass(frozen=True, slots=True)
class ReplicaVerdict:
    """One replica of one shard."""

    node: NodeId
    state: State
    reply: ChecksumReply | None
    """Its last answer; None if there was none."""
    error: str | None
    """Why it could not be compared."""

    @property
    def counted(self) -> ChecksumReply | None:
        """Its last answer, if that had a checksum."""
        return self.reply if self.reply is not None and self.reply.checksum is not None else None

    @property
    def checksum(self) -> str | None:
        """As people and JSON see it: 16 hexadecimal digits."""
        return f"{self.counted.checksum:016x}" if self.counted is not None else None


@dataclass(frozen=True, slots=True)
class ShardVerdict:
    """All replicas of one shard, compared at ``index``."""

    id: ShardId
    index: LogIndex
    replicas: tuple[ReplicaVerdict, ...]

    @property
    def is_equal(self) -> bool | None:
        """None: those that were compared are equal, but not all could be."""
        if any(replica.state is State.DIFFERS for replica in self.replicas):
            return False
        return True if all(replica.state is State.OK for replica in self.replicas) else None


@dataclass(frozen=True, slots=True)
class Verification:
    """Every shard that was looked at."""

    shards: tuple[ShardVerdict, ...]

    @property
    def is_equal(self) -> bool | None:
        """False if any shard's replicas differ; None if not all could be compared."""
        found = [shard.is_equal for shard in self.shards]
        if False in found:
            return False
        return None if None in found else True

    def problems(self) -> list[str]:
        """A sentence for every replica that is not as it should be."""
        return [
            f"shard {shard.id} on {replica.node}: "
            + (replica.error or f"differs at applied index {shard.index}")
            for shard in self.shards
            for replica in shard.replicas
            if replica.state is not State.OK
        ]

    def summary(self) -> str:
        """One line about all of it."""
        replicas = [replica for shard in self.shards for replica in shard.replicas]
        counts = Counter(replica.state for replica in replicas)
        looked_at = f"{_count(len(self.shards), 'shard')}, {_count(len(replicas), 'replica')}"
        if self.is_equal:
            return f"{looked_at}: all equal"
        others = ", ".join(f"{counts[state]} {state}" for state in State if counts[state])
        return f"{looked_at}: {others}"

    def to_json(self) -> dict[str, Any]:
        """The documented shape of ``kv verify -o json``."""
        return {
            "equal": self.is_equal,
            "shards": [
                {
                    "id": shard.id,
                    "index": shard.index,
                    "equal": shard.is_equal,
                    "replicas": [_replica_json(replica) for replica in shard.replicas],
                }
                for shard in self.shards
            ],
        }


def judge(
    shard: ShardId,
    index: LogIndex,
    answers: dict[NodeId, ChecksumReply | str],
) -> ShardVerdict:
    """Compare what the replicas of one shard said.

    Args:
        shard: Which one.
        index: The applied index that they were asked for last; every checksum is of it.
        answers: What each said, or why it could not be asked.
    """
    compared = Counter(
        (answer.checksum, answer.term)
        for answer in answers.values()
        if isinstance(answer, ChecksumReply) and answer.checksum is not None
    )
    right = next(
        (found for found, count in compared.items() if 2 * count > len(answers)),
        next(iter(compared)) if len(compared) == 1 else None,
    )

    def verdict(node: NodeId, answer: ChecksumReply | str) -> ReplicaVerdict:
        if isinstance(answer, str):
            return ReplicaVerdict(node, State.UNREACHABLE, None, answer)
        if answer.checksum is not None:
            is_right = (answer.checksum, answer.term) == right
            return ReplicaVerdict(node, State.OK if is_right else State.DIFFERS, answer, None)
        if answer.index == index:
            why = f"gave no checksum at applied index {index} in time"
            return ReplicaVerdict(node, State.UNREACHABLE, answer, why)
        state = State.AHEAD if answer.index > index else State.BEHIND
        preposition = "ahead of" if state is State.AHEAD else "behind"
        why = f"is at applied index {answer.index}, {preposition} {index}"
        return ReplicaVerdict(node, state, answer, why)

    return ShardVerdict(shard, index, tuple(verdict(*item) for item in answers.items()))


def _replica_json(replica: ReplicaVerdict) -> dict[str, Any]:
    reply, counted = replica.reply, replica.counted
    return {
        "node": replica.node,
        "state": replica.state.value,
        "index": reply.index if reply else None,
        "checksum": replica.checksum,
        "keys": counted.keys if counted else None,
        "bytes": counted.bytes if counted else None,
        "error": replica.error,
    }


def _count(number: int, name: str) -> str:
    return f"{number} {name}{'' if number == 1 else 's'}"
