"""Looks after the members of all groups that this node leads: see :mod:`kvstore.server.reshaping`.

A leader that is to go hands over before the change that takes it out (thesis §4.2.2): so it hears
who leads next, and can send its clients there. It tries that once a term; then it goes as it is.

It also tells the meta group's members what has become of the changes that are under way.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from kvstore.errors import InvalidArgument, NotLeader, Overloaded
from kvstore.ids import ReplicaId, in_life, number_of
from kvstore.server.rejoin import LEARNERS_MAX, is_caught_up
from kvstore.server.reshaping import must_confirm, next_step, report_of, wanted_members
from kvstore.server.upkeep import successors

if TYPE_CHECKING:
    from collections.abc import Callable

    from kvstore.ids import GroupId, NodeId, Term
    from kvstore.server.raft_driver import RaftDriver
    from kvstore.server.reshaping import Step
    from kvstore.server.shard_host import ShardHost
    from kvstore.sharding.known import Report
    from kvstore.sharding.shard_map import ShardMap

log = logging.getLogger(__name__)

BUSY_INTERVAL_S: Final = 0.1
IDLE_INTERVAL_S: Final = 0.5


class Reshaper:
    """Called from time to time: :meth:`check`."""

    def __init__(
        self,
        driver: RaftDriver,
        *,
        shard_map: Callable[[], ShardMap | None],
        lives: Callable[[NodeId], int | None],
        tell: Callable[[list[Report]], None],
        clock: Callable[[], float],
    ) -> None:
        """Make one that has seen nothing yet.

        Args:
            driver: Of the node's groups.
            shard_map: The newest that this node follows.
            lives: The life of a node's data, None for one that is not connected.
            tell: Takes what is to be told to the meta group's members.
            clock: Steady seconds.
        """
        self._driver = driver
        self._shard_map = shard_map
        self._lives = lives
        self._tell = tell
        self._clock = clock
        self._handed_over: dict[GroupId, Term] = {}
        """In which term we last tried to, because we are to go."""

    async def run(self) -> None:
        """Check until cancelled, more often while something is to be done."""
        while True:
            await asyncio.sleep(self.interval_s())
            self._driver.guarded(self.check)

    def interval_s(self) -> float:
        """When to check again."""
        shard_map = self._shard_map()
        is_busy = shard_map is not None and bool(shard_map.changes)
        return BUSY_INTERVAL_S if is_busy else IDLE_INTERVAL_S

    def check(self) -> None:
        """Take the next step in each group that this node leads, and tell how far they are."""
        shard_map = self._shard_map()
        if shard_map is None:
            return
        now = self._clock()
        reports: list[Report] = []
        for group, host in self._driver.hosts.items():
            if not host.is_leader or host.core.config.epoch > shard_map.version:
                continue
            self._take_step(group, host, shard_map, now)
            change = shard_map.change_of(group)
            if change is not None and host.core.config == host.core.committed_config:
                reports.append(report_of(change, host.core.status(now)))
        if reports:
            self._tell(reports)

    def _take_step(self, group: GroupId, host: ShardHost, shard_map: ShardMap, now: float) -> None:
        config = host.core.config
        step = next_step(
            config,
            wanted_members(shard_map, group, config),
            confirm=must_confirm(shard_map, group),
            life=lambda replica: self._life(host, replica),
            is_caught_up=lambda replica: is_caught_up(host.core.status(now), replica),
            may_begin=self._may_begin,
        )
        if step is None or not _has_majority(host, step.voters, now):
            return
        if host.core.replica not in step.voters and self._hands_over(
            group, host, step, shard_map, now
        ):
            return
        try:
            host.core.propose_config(step.voters, step.learners, now, epoch=shard_map.version)
        except (NotLeader, Overloaded, InvalidArgument) as error:
            log.debug("%s: no change of its members now: %s", host.name, error)
            return
        log.info(
            "%s: by version %d of the shard map its members become %s%s",
            host.name,
            shard_map.version,
            self._names(host, step.voters),
            f", learning: {self._names(host, step.learners)}" if step.learners else "",
        )
        self._driver.wake(host)

    def _hands_over(
        self, group: GroupId, host: ShardHost, step: Step, shard_map: ShardMap, now: float
    ) -> bool:
        """Whether somebody who stays is about to lead instead of us: if it can, the preferred."""
        if host.core.is_handing_over:
            return True
        preferred = shard_map.members(group)[0].id
        stays = [peer for peer in successors(host, now) if peer in step.voters]
        stays.sort(key=lambda peer: in_life(peer, 0) != preferred)
        if not stays or self._handed_over.get(group) == host.core.term:
            return False
        self._handed_over[group] = host.core.term
        log.info("%s: we are to go, so leadership goes to %s", host.name, host.replicas[stays[0]])
        host.core.transfer_leadership(stays[0], now)
        self._driver.wake(host)
        return True

    def _life(self, host: ShardHost, replica: ReplicaId) -> int | None:
        node = host.replicas.get(replica)
        return None if node is None else self._lives(node)

    def _may_begin(self, learner: ReplicaId) -> bool:
        """Whether its node does not catch up in many groups already that are led here."""
        learning = sum(
            number_of(other) == number_of(learner)
            for host in self._driver.hosts.values()
            if host.is_leader
            for other in host.core.config.learners
        )
        return learning < LEARNERS_MAX

    @staticmethod
    def _names(host: ShardHost, replicas: frozenset[ReplicaId]) -> str:
        return ", ".join(sorted(host.replicas.get(r) or f"replica {r}" for r in replicas))


def _has_majority(host: ShardHost, voters: frozenset[ReplicaId], now: float) -> bool:
    """Whether enough of those who would vote are there to commit that they do."""
    there = {peer.replica for peer in host.core.status(now).progress if peer.recently_active}
    there.add(host.core.replica)
    return 2 * len(voters & there) > len(voters)
