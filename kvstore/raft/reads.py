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
    """Reads that a follower has asked its leader about. Each ends by an answer or a deadline."""

    def __init__(self) -> None:
        self._deadlines: dict[int, float] = {}

    def add(self, context: int, deadline: float) -> None:
        """The leader was asked."""
        self._deadlines[context] = deadline

    def take(self, context: int) -> bool:
        """An answer came; False if nobody waits for it (any more)."""
        return self._deadlines.pop(context, None) is not None

    def take_overdue(self, now: float) -> list[int]:
        """Contexts whose answer did not come in time."""
        overdue = [context for context, deadline in self._deadlines.items() if deadline <= now]
        for context in overdue:
            del self._deadlines[context]
        return overdue

    def take_all(self) -> list[int]:
        """The leader changed: nobody will answer these."""
        contexts = list(self._deadlines)
        self._deadlines.clear()
        return contexts
