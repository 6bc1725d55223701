"""Linearizable reads without a log entry (thesis §6.4, "ReadIndex").

A read is linearizable at the leader's commit index of the moment it arrived, provided that
the leader still led *after* that moment: a round of heartbeats proves it. All reads that
arrive between two rounds share the next one; an answered round also proves every earlier one.
Rounds are numbered per term and live only as long as the leadership does.

There are two kinds. A **beat** goes to everybody when the timer says so, and carries on the
duties of a heartbeat: it is what failure detectors measure and what shows that an append was
lost. A **read round** comes whenever reads do, and asks no more voters than a quorum needs
(:mod:`kvstore.raft.read_rounds`); its answers confirm that we lead, and nothing else. Beats have
odd numbers and read rounds even ones, so that both sides tell them apart.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from kvstore.ids import LogIndex, ReplicaId
    from kvstore.raft.messages import GroupConfig
    from kvstore.raft.progress import Progress


def is_beat(number: int) -> bool:
    """Whether the round is one of the timer's, to everybody."""
    return number % 2 == 1


def next_beat(number: int) -> int:
    """The number of a beat that follows the round ``number``."""
    return number + 1 + number % 2


def next_read_round(number: int) -> int:
    """The number of a read round that follows the round ``number``."""
    return number + 2 - number % 2


class ReadRequest(NamedTuple):
    """``origin`` is the replica that asked, possibly ourselves."""

    context: int
    origin: ReplicaId


class Choice(NamedTuple):
    """Whom read rounds ask, until the next beat if nothing happens."""

    config: GroupConfig
    beat_round: int
    asked: tuple[Progress, ...]


class Round(NamedTuple):
    """Reads that arrived before it began, and who was asked then."""

    number: int
    read_index: LogIndex
    requests: list[ReadRequest]
    asked: tuple[Progress, ...]
    began_at: float


class LeaderReads:
    """Reads that a leader has not confirmed yet."""

    def __init__(self) -> None:
        self.waiting: list[ReadRequest] = []
        """Arrived since the last round began."""
        self._asked_all: deque[Round] = deque()
        self.asked_few: deque[Round] = deque()
        """Begun after all of the former, and not asked of everybody yet."""

    @property
    def is_confirming(self) -> bool:
        """Whether reads wait for answers to a round."""
        return bool(self.asked_few or self._asked_all)

    def begin_round(
        self, number: int, commit_index: LogIndex, asked: tuple[Progress, ...], now: float
    ) -> None:
        """Heartbeats with ``number`` leave now: what waits is confirmed by their answers."""
        if self.waiting:
            begun = Round(number, commit_index, self.waiting, asked, now)
            self.asked_few.append(begun)
            self.waiting = []

    def asked_all(self) -> None:
        """Everybody was sent the last round: an answer of anybody confirms all so far."""
        self._asked_all += self.asked_few
        self.asked_few.clear()

    def confirm(self, number: int) -> list[tuple[ReadRequest, LogIndex]]:
        """A quorum answered round ``number``: take out what that proves."""
        done = []
        for rounds in (self._asked_all, self.asked_few):
            while rounds and rounds[0].number <= number:
                confirmed = rounds.popleft()
                done += [(request, confirmed.read_index) for request in confirmed.requests]
        return done

    def take_all(self) -> list[ReadRequest]:
        """Leadership is over: everything unconfirmed, in order of arrival."""
        rounds = (*self._asked_all, *self.asked_few)
        requests = [request for row in rounds for request in row.requests] + self.waiting
        self._asked_all.clear()
        self.asked_few.clear()
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
