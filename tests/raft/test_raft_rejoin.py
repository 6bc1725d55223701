"""Replicas that lose their disks and come back under new ids, one after the other, for ever.

The leader takes the steps that :mod:`kvstore.server.rejoin` names. Whatever is committed must
outlive every disk that it was committed on: after a few rounds none of the first ones is left.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from raft_cluster import Cluster, Disk, Faults, Replica
from raft_solo import R1, R2, Solo, entries

from kvstore.config import RaftConfig
from kvstore.errors import KVError
from kvstore.ids import NO_REPLICA, LogIndex, ReplicaId, Term, life_of, number_of, replica_id
from kvstore.raft.confchange import keeps_vote
from kvstore.raft.messages import (
    AppendRequest,
    GroupConfig,
    HardState,
    Heartbeat,
    SnapshotMeta,
    VoteRequest,
)
from kvstore.raft.ready import Role
from kvstore.server.rejoin import next_change

NODES = (1, 2, 3)
FOUNDING = GroupConfig(tuple(map(ReplicaId, NODES)))
CHECK_S = 0.1
PATIENCE_S = 60.0
UNKIND = Faults(loss=0.05, duplication=0.05, delay_s_max=0.02, disk_s_max=0.01)
NO_LOSS = replace(UNKIND, loss=0.0)
BY_LOG = RaftConfig()
BY_SNAPSHOT = RaftConfig(log_bytes_max=4096, snapshot_chunks_inflight_max=1)
"""A snapshot has a hundred chunks in the end. Only one at a time: each that overtakes another
would make it begin anew, which on a connection none does."""

OTHER_LIFE = replica_id(number_of(R1), 1)
"""Of the node that replica 1 is on."""


class Wiped:
    """Three nodes, of which one at a time has lost its disk."""

    def __init__(self, seed: int, faults: Faults, options: RaftConfig) -> None:
        self.cluster = Cluster(seed, 3, faults=faults, options=options)
        self.rng = self.cluster.rng
        self.lives = dict.fromkeys(NODES, 0)
        self.proposed = 0

    def replica_of(self, number: int) -> ReplicaId:
        return replica_id(number, self.lives[number])

    def lose_disk(self, number: int) -> None:
        """The node's data is gone; it starts empty, in its next life."""
        self.cluster.replicas[self.replica_of(number)].crash()
        self.lives[number] += 1
        replica = self.replica_of(number)
        disk = Disk(HardState(Term(0), NO_REPLICA), SnapshotMeta(LogIndex(0), Term(0), FOUNDING))
        self.cluster.replicas[replica] = Replica(self.cluster, replica, disk)

    def check(self) -> None:
        """What every leader does from time to time."""
        for leader in list(self.cluster.replicas.values()):
            if leader.is_up and leader.core.role is Role.LEADER:
                self._check(leader)

    def _check(self, leader: Replica) -> None:
        status = leader.core.status(self.cluster.now)
        match = {peer.replica: peer.match_index for peer in status.progress}
        change = next_change(
            status.config,
            {
                voter: self.replica_of(number_of(voter))
                for voter in status.config.voters
                if life_of(voter) < self.lives[number_of(voter)]
            },
            is_caught_up=lambda replica: match[replica] + 8 >= status.last_index,
            may_begin=lambda replica: True,
        )
        if change is None:
            return
        try:
            leader.core.propose_config(change.voters, change.learners, self.cluster.now)
        except KVError:
            return
        leader.drive()

    def go_on(self) -> None:
        for _ in range(self.rng.randrange(4)):
            self.proposed += 1
            self.cluster.propose(b"command %d " % self.proposed + bytes(100))
        self.cluster.run(CHECK_S)
        self.check()

    @property
    def is_whole(self) -> bool:
        """Whether the latest lives make up the group, and are known to."""
        leader = self.cluster.leader
        return leader is not None and all(
            keeps_vote(leader.core.committed_config, self.replica_of(number)) for number in NODES
        )

    def become_whole(self) -> None:
        end = self.cluster.now + PATIENCE_S
        while not self.is_whole:
            assert self.cluster.now < end, "the node is not back"
            self.go_on()


@pytest.mark.parametrize(
    ("faults", "options"),
    [(UNKIND, BY_LOG), (NO_LOSS, BY_SNAPSHOT)],
    ids=["by the log", "by snapshots"],
)
@pytest.mark.parametrize("seed", range(8))
def test_what_is_committed_outlives_every_disk(
    seed: int, faults: Faults, options: RaftConfig
) -> None:
    group = Wiped(seed, faults, options)
    cluster = group.cluster
    for _ in range(6):
        group.become_whole()
        number = group.rng.choice(NODES)
        group.lose_disk(number)
        if group.rng.random() < 0.4:
            for _ in range(group.rng.randrange(1, 12)):
                group.go_on()
            group.lose_disk(number)
    group.become_whole()
    assert sum(group.lives.values()) >= 6
    assert bool(cluster.chunks) == (options is BY_SNAPSHOT)
    last = max(cluster.history)
    current = [cluster.replicas[group.replica_of(number)] for number in NODES]
    cluster.run_until(lambda: all(r.core.applied_index >= last for r in current), PATIENCE_S)
    for replica in current:
        applied = {entry.index: entry for entry in replica.applied}
        assert all(applied[index] == entry for index, entry in cluster.history.items())
    cluster.check_logs_match()


def test_a_replica_that_nobody_made_a_member_stays_silent() -> None:
    group = Wiped(1, Faults(), BY_LOG)
    group.become_whole()
    group.lose_disk(3)
    outsider = group.replica_of(3)
    cluster = group.cluster
    cluster.sent.clear()
    for _ in range(50):
        core = cluster.replicas[outsider].core
        core.campaign(cluster.now)
        core.peer_gone(ReplicaId(1), cluster.now)
        cluster.run(CHECK_S)
        assert core.is_settled, "no election is near"
    assert cluster.replicas[outsider].core.role is Role.FOLLOWER
    senders = {message.sender for message in cluster.sent}
    assert senders == {group.replica_of(1), group.replica_of(2)}


@pytest.mark.parametrize(
    "message",
    [
        Heartbeat(R2, OTHER_LIFE, Term(9), LogIndex(2), 1),
        AppendRequest(R2, OTHER_LIFE, Term(9), LogIndex(1), Term(1), entries("9", 1), LogIndex(2)),
        VoteRequest(
            R2, OTHER_LIFE, Term(9), LogIndex(2), Term(1), pre_vote=False, by_transfer=True
        ),
    ],
    ids=lambda message: type(message).__name__,
)
def test_what_is_said_to_another_life_of_the_node_changes_nothing(
    message: Heartbeat | AppendRequest | VoteRequest,
) -> None:
    solo = Solo("11")
    readies = len(solo.readies)
    solo.step(message)
    assert (solo.core.term, solo.terms(), solo.commit_index) == (1, "11", 0)
    assert (solo.sent, len(solo.readies)) == ([], readies)
    solo.step(replace(message, receiver=R1))
    assert solo.core.term == 9, "it would have meant something to the one that it was for"
    assert len(solo.readies) > readies
