"""Sessions: what makes the retry of a write safe (Raft thesis, section 6.3).

A session is a pair of numbers that the client makes up: ``created``, a revision near the
cluster's present, and a random ``nonce``. Each batch of writes to the shard carries the
session, its own ``seq`` and ``ack_below``, the lowest seq not yet settled here. The shard
keeps the reply of every seq from ``ack_below`` on, so a batch that arrives again gets the
first answer again and is not run twice. A client keeps one session per shard: sessions
expire shard by shard, and a new one in one shard leaves the others alone.

Pure: the caller gives time and randomness.
"""

from __future__ import annotations

from kvstore.hlc import revision_at, wall_ms_of
from kvstore.kv.sessions import SEQ_WINDOW


class Session:
    """Numbers the batches of one client to one shard.

    Invariant: every seq below ``ack_below`` is settled; every seq handed out and not settled
    is in [ack_below, ack_below + SEQ_WINDOW).
    """

    def __init__(self, created: int, nonce: int, *, outstanding_max: int) -> None:
        self.created = created
        self.nonce = nonce
        self._outstanding_max = outstanding_max
        self._outstanding: dict[int, None] = {}  # a set in the order of seq
        self._next_seq = 1

    @property
    def ack_below(self) -> int:
        """The lowest seq that is not settled."""
        return next(iter(self._outstanding), self._next_seq)

    @property
    def is_idle(self) -> bool:
        """Whether every batch is settled."""
        return not self._outstanding

    @property
    def has_room(self) -> bool:
        """Whether another batch may begin."""
        outstanding = self._outstanding
        return not outstanding or (
            len(outstanding) < self._outstanding_max
            and self._next_seq < self.ack_below + SEQ_WINDOW
        )

    def begin(self) -> tuple[int, int]:
        """Number a batch that was never sent: its seq and the ack_below to send along."""
        assert self.has_room
        seq = self._next_seq
        self._next_seq = seq + 1
        self._outstanding[seq] = None
        return seq, self.ack_below

    def settle(self, seq: int) -> None:
        """The batch is answered or given up: it will not be sent again."""
        self._outstanding.pop(seq, None)


class RevisionEstimate:
    """What revision the cluster is near now, without trusting this machine's date.

    Nodes tell theirs; between two tellings the steady clock carries it on.
    """

    def __init__(self) -> None:
        self._revision = 0
        self._told_at = 0.0

    def observe(self, revision: int, now: float) -> None:
        """A node said that its clock stands at ``revision``; only ever moves forward."""
        if revision > self.at(now):
            self._revision = revision
            self._told_at = now

    def at(self, now: float) -> int:
        """The estimate at ``now``, in seconds of the steady clock."""
        elapsed_ms = int((now - self._told_at) * 1000)
        if not self._revision or elapsed_ms <= 0:
            return self._revision
        return revision_at(wall_ms_of(self._revision) + elapsed_ms)
