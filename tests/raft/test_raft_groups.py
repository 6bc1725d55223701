"""Whole groups in the situations that the paper and the field know to be hard."""

from __future__ import annotations

import pytest
from raft_cluster import Cluster, Disk, Replica

from kvstore.config import RaftConfig
from kvstore.ids import NO_REPLICA, LogIndex, ReplicaId, Term
from kvstore.raft import commit
from kvstore.raft.messages import Entry, EntryKind, GroupConfig, HardState, SnapshotMeta
from kvstore.raft.ready import Role

R1, R2, R3, R4, R5 = map(ReplicaId, range(1, 6))


def with_log(cluster: Cluster, replica: ReplicaId, terms: str, term: int) -> None:
    """Let ``replica`` start from a log with entries of ``terms``, in ``term``, nobody voted for."""
    config = cluster.replicas[replica].disk.base.config
    cluster.replicas[replica].crash()
    disk = log_of(terms, config)
    disk.hard_state = HardState(Term(term), NO_REPLICA)
    cluster.replicas[replica] = Replica(cluster, replica, disk)


def led_cluster(voters: int = 3, *, spares: int = 0, options: RaftConfig | None = None) -> Cluster:
    cluster = Cluster(7, voters, spares=spares, options=options)
    cluster.run_until(lambda: settled(cluster), 5.0)
    return cluster


def settled(cluster: Cluster) -> bool:
    leader = cluster.leader
    return leader is not None and leader.core.status(cluster.now).commit_index > 0


def leader_of(cluster: Cluster) -> Replica:
    assert cluster.leader is not None
    return cluster.leader


def log_of(terms: str, config: GroupConfig) -> Disk:
    """A disk whose log has an entry of each of ``terms``, figure 7's notation."""
    entries = [
        Entry(LogIndex(i), Term(int(t)), EntryKind.COMMAND, f"{i}:{t}".encode())
        for i, t in enumerate(terms, start=1)
    ]
    term = Term(int(terms[-1]))
    return Disk(HardState(term, NO_REPLICA), SnapshotMeta(LogIndex(0), Term(0), config), entries)


FIGURE_7 = {
    "a: lacks the last": "111445566",
    "b: lacks many": "1114",
    "c: has one more of the leader's term": "11144556666",
    "d: has two of a newer term": "111445566677",
    "e: lacks some and has others": "1114444",
    "f: has two terms nobody else has": "11122233333",
}


@pytest.mark.parametrize("terms", FIGURE_7.values(), ids=FIGURE_7.keys())
def test_figure_7_every_follower_ends_with_the_leaders_log(terms: str) -> None:
    cluster = Cluster(7, 3)
    for replica, log in ((R1, "1114455666"), (R2, "1114455666"), (R3, terms)):
        with_log(cluster, replica, log, term=7)
    cluster.partition({R3})
    cluster.replicas[R1].core.campaign(cluster.now)
    cluster.replicas[R1].drive()
    cluster.run_until(lambda: cluster.leader is not None, 5.0)
    cluster.heal()
    cluster.run_until(lambda: len(cluster.replicas[R3].applied) >= 11, 5.0)
    expected = "1114455666" + str(leader_of(cluster).core.term)
    for replica in cluster.replicas.values():
        assert "".join(str(entry.term) for entry in replica.applied) == expected


def test_figure_8_an_old_terms_entry_is_not_committed_by_counting() -> None:
    """Section 5.4.2: (c) S1 has term 2's entry on a majority, and still it is not committed."""
    cluster = Cluster(7, 5)
    for replica, log in ((R1, "12"), (R2, "12"), (R3, "12"), (R4, "1"), (R5, "13")):
        with_log(cluster, replica, log, term=3)
    s1 = cluster.replicas[R1]
    cluster.partition({R4, R5})
    s1.core.campaign(cluster.now)
    s1.drive()
    while s1.core.role is not Role.LEADER:
        assert cluster.now < 1.0
        cluster.run(0.0001)  # stop at once: its no-op has not left yet
    state = s1.core._state
    assert state.leading is not None
    for peer in state.leading.tracker.peers.values():
        peer.match_index = LogIndex(2)  # a majority has term 2's entry, nobody term 4's no-op
    state.log.durable_index = LogIndex(2)
    commit.advance_commit(state)
    assert state.commit_index == 0
    state.log.durable_index = LogIndex(3)
    state.leading.tracker.peers[R2].match_index = LogIndex(3)
    state.leading.tracker.peers[R3].match_index = LogIndex(3)
    commit.advance_commit(state)
    assert state.commit_index == 3, "(e): an entry of its own term on a majority commits both"


def test_a_rejoining_server_disturbs_nobody() -> None:
    """Thesis 9.6: with PreVote a replica that was cut off cannot raise the others' term."""
    cluster = led_cluster()
    leader = leader_of(cluster)
    other = next(r for r in cluster.replicas if r != leader.id)
    term = leader.core.term
    cluster.partition({other})
    cluster.run(10.0)
    assert cluster.replicas[other].core.term == term
    cluster.heal()
    cluster.run(5.0)
    assert leader_of(cluster).id == leader.id
    assert leader.core.term == term


def test_a_leader_that_hears_nobody_steps_down_and_is_replaced() -> None:
    """CheckQuorum: a leader cut off one way would else hold its followers for ever."""
    cluster = led_cluster()
    old = leader_of(cluster)
    for replica in cluster.replicas:
        if replica != old.id:
            cluster.blocked.add((replica, old.id))
    cluster.run_until(lambda: old.core.role is not Role.LEADER, 5.0)
    cluster.run_until(lambda: cluster.leader not in (None, old), 10.0)
    assert cluster.propose(b"goes on")
    cluster.run_until(lambda: b"goes on" in cluster.commands(leader_of(cluster)), 5.0)


def change(cluster: Cluster, voters: list[ReplicaId], learners: list[ReplicaId]) -> None:
    leader = leader_of(cluster)
    leader.core.propose_config(voters, learners, cluster.now)
    leader.drive()


def config_of(replica: Replica, cluster: Cluster) -> GroupConfig:
    return replica.core.status(cluster.now).config


def test_one_by_one_changes_grow_a_group_through_learners() -> None:
    """Thesis 4.2.1: a learner catches up without a vote, then becomes a voter."""
    cluster = led_cluster(spares=2)
    cluster.propose(b"before")
    for new in (R4, R5):
        voters = [ReplicaId(number) for number in range(1, new)]
        change(cluster, voters, [new])
        cluster.run_until(lambda n=new: b"before" in cluster.commands(cluster.replicas[n]), 5.0)
        change(cluster, [*voters, new], [])
        cluster.run_until(
            lambda n=new: config_of(cluster.replicas[n], cluster).voters[-1] == n, 5.0
        )
    assert config_of(leader_of(cluster), cluster) == GroupConfig((R1, R2, R3, R4, R5))


def test_a_leader_removes_itself_by_a_joint_change() -> None:
    """Raft section 6: it leads until the new configuration is committed, then falls silent."""
    cluster = led_cluster(spares=2)
    old = leader_of(cluster)
    rest = [replica for replica in cluster.replicas if replica != old.id]
    change(cluster, rest, [])
    assert config_of(old, cluster).voters_outgoing == (R1, R2, R3)
    cluster.run_until(lambda: old.core.role is not Role.LEADER, 5.0)
    cluster.run_until(lambda: cluster.leader is not None, 5.0)
    new = leader_of(cluster)
    assert new.id != old.id
    term = new.core.term
    cluster.run(10.0)
    assert new.core.term == term, "the removed replica disturbed the rest"
    assert config_of(old, cluster) == GroupConfig(tuple(rest)), "it knows that it is removed"
    cluster.propose(b"without it")
    cluster.run_until(
        lambda: all(b"without it" in cluster.commands(cluster.replicas[r]) for r in rest), 5.0
    )


def test_a_follower_gets_a_snapshot_while_entries_keep_coming() -> None:
    """Raft section 7: what it needs is compacted away, and the log does not stand still."""
    cluster = led_cluster(options=RaftConfig(log_bytes_max=2000))
    late = next(r for r in cluster.replicas.values() if r is not cluster.leader)
    late.crash()
    for number in range(200):
        cluster.propose(b"while away %d" % number)
        cluster.run(0.01)
    base = leader_of(cluster).core.status(cluster.now).first_index
    assert base > late.disk.entries[-1].index + 1, "the leader still has all entries"
    late.start()
    cluster.notice_return(late.id)
    for number in range(100):
        cluster.propose(b"while sending %d" % number)
        cluster.run(0.01)
    cluster.run_until(lambda: cluster.commands(late)[-1:] == [b"while sending 99"], 5.0)
    assert cluster.commands(late) == cluster.commands(leader_of(cluster))


def test_leadership_is_handed_over_without_a_timeout() -> None:
    """Thesis 3.10."""
    cluster = led_cluster()
    old = leader_of(cluster)
    target = next(r for r in cluster.replicas.values() if r is not old)
    old.core.transfer_leadership(target.id, cluster.now)
    old.drive()
    began = cluster.now
    cluster.run_until(lambda: target.core.role is Role.LEADER, 1.0)
    assert cluster.now - began < cluster.options.election_timeout_s_min


def test_a_dead_leader_is_replaced_before_any_timeout() -> None:
    """The fast path: all who remain saw its connections close and nobody listen."""
    cluster = led_cluster()
    old = leader_of(cluster)
    old.crash()
    cluster.notice_death(old.id)
    began = cluster.now
    cluster.run_until(lambda: cluster.leader is not None, 5.0)
    assert cluster.now - began < cluster.options.election_timeout_s_min


def test_a_loss_that_only_one_sees_changes_nothing() -> None:
    """A voter that still hears the leader says no, however sure the other is."""
    cluster = led_cluster()
    leader = leader_of(cluster)
    mistaken = next(r for r in cluster.replicas.values() if r is not leader)
    term = leader.core.term
    mistaken.core.peer_gone(leader.id, cluster.now)
    mistaken.drive()
    cluster.run(3.0)
    assert leader_of(cluster) is leader
    assert leader.core.term == mistaken.core.term == term


def test_a_frozen_leader_serves_no_stale_read_when_it_wakes() -> None:
    cluster = led_cluster()
    old = leader_of(cluster)
    old.paused_until = cluster.now + 5.0
    cluster.run_until(lambda: cluster.leader not in (None, old), 4.0)
    assert cluster.propose(b"newer")
    cluster.run(0.5)
    cluster.run_until(lambda: cluster.now > old.paused_until, 6.0)
    confirmed = cluster.reads_confirmed
    cluster.read(old)
    cluster.run(2.0)
    assert cluster.leader is not old
    assert not old.reads, "the read was answered: refused, or confirmed by the new leader"
    assert cluster.reads_confirmed in (confirmed, confirmed + 1)


def test_a_follower_that_lost_what_it_had_acknowledged_gets_it_again() -> None:
    """A disk may lose synced bytes; the leader must not believe its own memory for ever."""
    cluster = led_cluster()
    for number in range(20):
        cluster.propose(b"entry %d" % number)
        cluster.run(0.02)
    victim = next(r for r in cluster.replicas.values() if r is not cluster.leader)
    victim.crash()
    del victim.disk.entries[-5:]
    kept = victim.disk.entries[-1].index
    del victim.disk.applied[kept:]
    victim.start()
    cluster.notice_return(victim.id)
    cluster.run_until(lambda: cluster.commands(victim)[-1:] == [b"entry 19"], 5.0)
    assert cluster.commands(victim) == cluster.commands(leader_of(cluster))


def shown_active(cluster: Cluster) -> set[ReplicaId]:
    status = leader_of(cluster).core.status(cluster.now)
    return {peer.replica for peer in status.progress if peer.recently_active}


def test_a_peer_that_is_there_is_shown_so_at_every_moment_and_a_dead_one_soon_not() -> None:
    cluster = led_cluster()
    cluster.run(2.0)
    followers = {R1, R2, R3} - {leader_of(cluster).id}
    for _ in range(300):
        cluster.run(0.01)
        assert shown_active(cluster) == followers, "just after a check of the quorum as well"
    dead = min(followers)
    cluster.replicas[dead].crash()
    cluster.run_until(lambda: shown_active(cluster) == followers - {dead}, 3.0)
