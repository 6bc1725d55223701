"""Sees in time that reads wait for a voter that does not answer, so that others are asked.

A core asks as few voters as it can (:mod:`kvstore.raft.read_rounds`) and says when it wants to be
looked at if they stay silent. That is sooner than the next tick. While reads come all the time
one timer runs on for all groups; with none it rests.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from kvstore.server.shard_host import ShardHost

TAKE_IN_S: Final = 0.001
"""After this loop stood still the answers may lie before it unread: so long it reads first."""


class LateReads:
    """Invariant: while a host is watched, the timer runs."""

    def __init__(
        self,
        later: Callable[[float, Callable[[], None]], object],
        clock: Callable[[], float],
        wake: Callable[[ShardHost], None],
    ) -> None:
        """``later`` runs something in so many seconds; ``wake`` has a host looked at."""
        self._later = later
        self._clock = clock
        self._wake = wake
        self._watched: dict[ShardHost, None] = {}

    def watch(self, host: ShardHost) -> None:
        """Come back to ``host`` if reads of it are not confirmed in time."""
        if host in self._watched:
            return
        due_at = host.core.reads_due_at
        if due_at is None:
            return
        if not self._watched:
            self._later(max(0.0, due_at - self._clock()), self._due)
        self._watched[host] = None

    def _due(self) -> None:
        self._later(TAKE_IN_S, self._look)

    def _look(self) -> None:
        now = self._clock()
        watched, self._watched = self._watched, {}
        for host in watched:
            if host.has_left:
                continue
            due_at = host.core.reads_due_at
            if due_at is not None and due_at <= now:
                host.core.tick(now)
                self._wake(host)
            self.watch(host)
