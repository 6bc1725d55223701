"""Linearizable reads without a log entry (thesis §6.4, "ReadIndex").

A read is linearizable at the leader's commit index of the moment it arrived, provided that
the leader still led *after* that moment: a round of heartbeats proves it. All reads that
arrive between two rounds share the next one; an answered round also proves every earlier one.
Rounds are numbered per term and live only as long as the leadership does.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from kvstore.ids import LogIndex, ReplicaId


class ReadRequest(NamedTuple):
    """``origin`` is the replica that asked, possibly ourselves."""

    context: int
    origin: ReplicaId


class _Round(NamedTuple):
    number: int
    read_index: LogIndex
    requests: list[ReadRequest]


class LeaderReads:
    """Reads that a leader has not confirmed yet."""

    def __init__(self) -> None:
        self.waiting: list[ReadRequest] = []
        """Arrived since the last round began."""
        self._rounds: deque[_Round] = deque()

    @property
    def is_confirming(self) -> bool:
        """Whether reads wait for answers to a round."""
        return bool(self._rounds)

    def begin_round(self, number: int, commit_index: LogIndex) -> None:
        """Heartbeats with ``number`` leave now: what waits is confirmed by their answers."""
        if self.waiting:
            self._rounds.append(_Round(number, commit_index, self.waiting))
            self.waiting = []

    def confirm(self, number: int) -> list[tuple[ReadRequest, LogIndex]]:
        """A quorum answered round ``number``: take out what that proves."""
        done = []
        while self._rounds and self._rounds[0].number <= number:
            confirmed = self._rounds.popleft()
            done += [(request, confirmed.read_index) for request in confirmed.requests]
        return done

    def take_all(self) -> list[ReadRequest]:
        """Leadership is over: everything unconfirmed, in order of arrival."""
        requests = [request for row in self._rounds for request in row.requests] + self.waiting
        self._rounds.clear()
        self.waiting = []
        return requests


class ForwardedReads:
    """Reads that a follower has asked its leader about. Each ends by an answer or a deadline.

    They are numbered for the wire from a random start: an answer that was meant for an earlier
    life of this process must not pass for one of a read of today.
    """

    def __init__(self, first_number: int) -> None:
        self._next_number = first_number
        self._reads: dict[int, tuple[int, float]] = {}

    def add(self, context: int, deadline: float) -> int:
        """The leader is asked under the returned number."""
        number = self._next_number
        self._next_number += 1
        self._reads[number] = (context, deadline)
        return number

    def take(self, number: int) -> int | None:
        """An answer came: for which context, or None if nobody waits for it (any more)."""
        read = self._reads.pop(number, None)
        return None if read is None else read[0]

    def take_overdue(self, now: float) -> list[int]:
        """Contexts whose answer did not come in time."""
        overdue = [number for number, (_, deadline) in self._reads.items() if deadline <= now]
        return [self._reads.pop(number)[0] for number in overdue]

    def take_all(self) -> list[int]:
        """The leader changed: nobody will answer these."""
        contexts = [context for context, _ in self._reads.values()]
        self._reads.clear()
        return contexts
