"""Brings a repaired node back into its groups: first as a learner, then as a voter.

A node that lost its data begins a new life, with replica ids that no group knows (see
:mod:`kvstore.ids`, :mod:`kvstore.server.handshake`). The leader of each group sees that a
peer lives on in a later life than the replica that stands for it in the configuration, and
goes these steps, each a configuration change of its own (thesis §4.2.1, §4.3):

1. the new replica becomes a learner. The old one stays a voter, silent as a dead one, so the
   group tolerates neither more nor fewer losses than before;
2. the learner gets the log, or a snapshot and the log behind it;
3. once it is caught up, a joint change exchanges the old voter for the new one. Not before
   the group is out of the joint configuration, committed, can it lose another replica; until
   then the node is shown as a learner.

Nothing is remembered from step to step: all follows from the configuration and from whom the
handshakes have let in, so whoever leads next goes on. If the node is repaired again on the
way, the learner that will never catch up gives way to that of the latest life.

Without a majority of a shard's other replicas nothing can be committed, so there the node
stays outside; it says so in its log.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from kvstore.errors import NotLeader, Overloaded
from kvstore.ids import NodeId, ReplicaId, in_life, life_of, number_of
from kvstore.raft.confchange import keeps_vote, members
from kvstore.server.upkeep import CATCH_UP_ENTRIES_MAX

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kvstore.raft.messages import GroupConfig
    from kvstore.raft.ready import Status
    from kvstore.server.raft_driver import RaftDriver
    from kvstore.server.shard_host import ShardHost

log = logging.getLogger(__name__)

REJOIN_INTERVAL_S = 0.5

LEARNERS_MAX = 4
"""Groups that one leader lets one node catch up in at once: its snapshots are sent together."""

PATIENCE_S = 10.0
"""How long a node may be outside its groups before it says so in its log."""

REMINDER_S = 60.0
"""How often it says so from then on."""


class Change(NamedTuple):
    """The members to propose, and whose return that is."""

    voters: frozenset[ReplicaId]
    learners: frozenset[ReplicaId]
    replica: ReplicaId


def next_change(
    config: GroupConfig,
    latest: Mapping[ReplicaId, ReplicaId],
    *,
    is_caught_up: Callable[[ReplicaId], bool],
    may_begin: Callable[[ReplicaId], bool],
) -> Change | None:
    """The next step for one group, if there is one to take now.

    Args:
        config: The configuration in force.
        latest: For each voter whose node has begun a later life, its replica of that life.
        is_caught_up: Whether a learner has nearly all of the log.
        may_begin: Whether a node's new replica may begin to catch up now.
    """
    if config.voters_outgoing:
        return None
    voters, learners = frozenset(config.voters), frozenset(config.learners)
    for old, new in latest.items():
        others = {r for r in learners if number_of(r) == number_of(new) and r != new}
        if any(life_of(replica) > life_of(new) for replica in others):
            continue  # Another leader met a later life; so will we.
        if new not in learners:
            if others or may_begin(new):  # One that gives way makes room.
                return Change(voters, learners - others | {new}, new)
        elif is_caught_up(new):
            return Change(voters - {old} | {new}, learners - others - {new}, new)
    return None


class Rejoin:
    """Looks after all groups of a node; :meth:`check` is called from time to time."""

    def __init__(
        self,
        driver: RaftDriver,
        *,
        lives: Callable[[NodeId], int | None],
        clock: Callable[[], float],
    ) -> None:
        """Make one that has seen nothing yet.

        Args:
            driver: Of the node's groups.
            lives: The life of a peer's data, None for one that is not connected.
            clock: Seconds, never running backwards.
        """
        self._driver = driver
        self._lives = lives
        self._clock = clock
        self._was_voteless = False
        self._remind_at: float | None = None

    def check(self) -> None:
        """Take the next step in each group that this node leads, where there is one."""
        now = self._clock()
        led = [host for host in self._driver.hosts.values() if host.is_leader]
        learning = Counter(
            host.replicas.get(learner) for host in led for learner in host.core.config.learners
        )
        for host in led:
            self._take_step(host, learning, now)
        self._tell_own_state(now)

    def _take_step(self, host: ShardHost, learning: Counter[NodeId | None], now: float) -> None:
        latest = self._latest(host)
        if not latest:
            return
        status = host.core.status(now)
        change = next_change(
            status.config,
            latest,
            is_caught_up=lambda replica: is_caught_up(status, replica),
            may_begin=lambda replica: learning[host.replicas.get(replica)] < LEARNERS_MAX,
        )
        if change is None:
            return
        try:
            host.core.propose_config(change.voters, change.learners, now)
        except (NotLeader, Overloaded) as error:
            log.debug("%s: no change of its members now: %s", host.name, error)
            return
        node, as_learner = host.replicas[change.replica], change.replica in change.learners
        learning[node] += as_learner
        role = "learner" if as_learner else "voter"
        log.info("%s: %s comes back as a %s", host.name, node, role)
        self._driver.wake(host)

    def _latest(self, host: ShardHost) -> dict[ReplicaId, ReplicaId]:
        """Voters whose node has begun a later life, and its replica of that life."""
        latest: dict[ReplicaId, ReplicaId] = {}
        for voter in host.core.config.voters:
            node = host.replicas.get(voter)
            if node is None or voter == host.core.replica:
                continue
            life = self._lives(node)
            if life is not None and life > life_of(voter):
                latest[voter] = in_life(voter, life)
        return latest

    def _tell_own_state(self, now: float) -> None:
        """Say in the log how far this node itself is, if it is on its way back."""
        hosts = self._driver.hosts.values()
        voteless = [
            host for host in hosts if not keeps_vote(host.core.committed_config, host.core.replica)
        ]
        if self._was_voteless and not voteless:
            log.info("this node votes in all its groups")
        self._was_voteless = bool(voteless)
        outside = [
            host.shard for host in voteless if host.core.replica not in members(host.core.config)
        ]
        if not outside:
            self._remind_at = None
        elif self._remind_at is None:
            self._remind_at = now + PATIENCE_S
        elif now >= self._remind_at:
            self._remind_at = now + REMINDER_S
            log.warning(
                "this node is no member of shard %s yet: a majority of the other replicas of "
                "each must be up and reach it, to take it in",
                ", ".join(map(str, outside)),
            )


def is_caught_up(status: Status, replica: ReplicaId) -> bool:
    """Whether a learner has nearly all of the log, or keeps up with it, and is there."""
    return any(
        peer.replica == replica
        and peer.recently_active
        and (peer.keeps_up or peer.match_index + CATCH_UP_ENTRIES_MAX >= status.last_index)
        for peer in status.progress
    )


async def keep_rejoining(rejoin: Rejoin) -> None:
    """Check from time to time, until cancelled."""
    while True:
        await asyncio.sleep(REJOIN_INTERVAL_S)
        rejoin.check()
