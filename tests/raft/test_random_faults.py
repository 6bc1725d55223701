"""Groups of real cores under random faults: safe at every step, live after healing."""

from __future__ import annotations

import os
import random

import pytest
from raft_cluster import Cluster, Faults

from kvstore.config import RaftConfig
from kvstore.errors import KVError
from kvstore.raft.ready import Role

FIRST_SEED = int(os.environ.get("RAFT_FIRST_SEED", "0"))
SEEDS = int(os.environ.get("RAFT_SEEDS", "60"))


def draw_faults(rng: random.Random) -> Faults:
    """Swarm testing: each run has some faults and lacks others."""

    def sometimes(value: float) -> float:
        return value * rng.random() if rng.random() < 0.5 else 0.0

    return Faults(
        loss=sometimes(0.2),
        duplication=sometimes(0.2),
        delay_s_max=rng.choice([0.001, 0.01, 0.1]),
        disk_s_max=rng.choice([0.0005, 0.005, 0.05]),
        crashes_per_s=sometimes(1.5),
        partitions_per_s=sometimes(1.0),
        pauses_per_s=sometimes(1.0),
        config_changes_per_s=sometimes(2.0),
        transfers_per_s=sometimes(1.0),
        gone_notices=rng.random() < 0.5,
        snapshot_failure=sometimes(0.3),
        install_s_max=rng.choice([0.0, 0.01, 1.0]),
        unreachable_per_s=sometimes(5.0),
        campaigns_per_s=sometimes(2.0),
    )


class Storm:
    """Draws what happens next: requests all the time, faults as the seed says."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        options = RaftConfig(
            log_bytes_max=self.rng.choice([300, 2000, 1 << 20]),
            inflight_messages_max=self.rng.choice([1, 4, 256]),
            append_bytes_max=self.rng.choice([100, 1000, 1 << 20]),
            lease_reads=self.rng.random() < 0.3,
        )
        self.cluster = Cluster(
            seed,
            voters=self.rng.choice([1, 2, 3, 3, 3, 5]),
            spares=self.rng.choice([0, 1, 2]),
            faults=draw_faults(self.rng),
            options=options,
        )
        self.proposed = 0

    def run(self, steps: int) -> None:
        for _ in range(steps):
            self.cluster.run(0.02)
            self.act()

    def act(self) -> None:
        cluster, rng, faults = self.cluster, self.rng, self.cluster.faults
        if rng.random() < 0.7:
            self.proposed += 1
            cluster.propose(b"command %d" % self.proposed)
        up = [r for r in cluster.replicas.values() if r.is_up]
        if up and rng.random() < 0.5:
            cluster.read(rng.choice(up))
        for rate, action in (
            (faults.crashes_per_s, self.crash),
            (faults.partitions_per_s, self.partition),
            (faults.pauses_per_s, self.pause),
            (faults.config_changes_per_s, self.change_members),
            (faults.transfers_per_s, self.transfer),
            (faults.unreachable_per_s, self.unreachable),
            (faults.campaigns_per_s, self.campaign),
        ):
            if rng.random() < rate * 0.02:
                action()

    def crash(self) -> None:
        cluster = self.cluster
        victim = self.rng.choice(list(cluster.replicas.values()))
        if not victim.is_up:
            return
        victim.crash()
        if cluster.faults.gone_notices:
            cluster.notice_death(victim.id)

        def back() -> None:
            if not victim.is_up:
                victim.start()
                cluster.notice_return(victim.id)

        cluster.at(cluster.now + self.rng.choice([0.01, 0.3, 2.0]), back)

    def partition(self) -> None:
        cluster = self.cluster
        side = {r for r in cluster.replicas if self.rng.random() < 0.4}
        cluster.partition(side, one_way=self.rng.random() < 0.3)
        cluster.at(cluster.now + self.rng.choice([0.2, 1.0, 3.0]), cluster.heal)

    def pause(self) -> None:
        victim = self.rng.choice(list(self.cluster.replicas.values()))
        victim.paused_until = self.cluster.now + self.rng.choice([0.1, 0.7, 3.0])

    def change_members(self) -> None:
        cluster = self.cluster
        if cluster.leader is None:
            return
        everybody = list(cluster.replicas)
        voters = self.rng.sample(everybody, self.rng.randint(1, len(everybody)))
        learners = [r for r in everybody if r not in voters and self.rng.random() < 0.5]
        try:
            cluster.leader.core.propose_config(voters, learners, cluster.now)
        except KVError:
            return
        cluster.leader.drive()

    def transfer(self) -> None:
        cluster = self.cluster
        if cluster.leader is None:
            return
        target = self.rng.choice(list(cluster.replicas))
        try:
            cluster.leader.core.transfer_leadership(target, cluster.now)
        except KVError:
            return
        cluster.leader.drive()

    def unreachable(self) -> None:
        """A driver reports lost messages, a new connection or a death, rightly or not."""
        core_of = self.rng.choice(list(self.cluster.replicas.values()))
        peer = self.rng.choice(list(self.cluster.replicas))
        if not core_of.is_up or peer == core_of.id:
            return
        core = core_of.core
        report = self.rng.choice([core.peer_unreachable, core.peer_connected, core.peer_gone])
        report(peer, self.cluster.now)
        core_of.drive()

    def campaign(self) -> None:
        replica = self.rng.choice(list(self.cluster.replicas.values()))
        if replica.is_up:
            replica.core.campaign(self.cluster.now)
            replica.drive()

    def calm_down(self) -> None:
        cluster = self.cluster
        cluster.heal()
        cluster.faults = Faults()
        for replica in cluster.replicas.values():
            replica.paused_until = 0.0
            if not replica.is_up:
                replica.start()
                cluster.notice_return(replica.id)


@pytest.mark.parametrize("seed", range(FIRST_SEED, FIRST_SEED + SEEDS))
def test_safe_in_a_storm_and_live_after_it(seed: int) -> None:
    storm = Storm(seed)
    cluster = storm.cluster
    storm.run(300)
    cluster.check_logs_match()
    storm.calm_down()
    cluster.run(6.0)
    assert cluster.leader is not None, "no leader after healing"
    final = b"after the storm"
    cluster.run_until(lambda: cluster.propose(final), 3.0)
    waiting = {replica.id: replica.reads for replica in cluster.replicas.values() if replica.reads}
    assert not waiting, "each read is confirmed or refused"
    members = cluster.leader.core.status(cluster.now).config
    following = [cluster.replicas[r] for r in (*members.voters, *members.learners)]
    cluster.run_until(lambda: all(final in cluster.commands(r) for r in following), 20.0)
    cluster.check_logs_match()
    applied = [cluster.commands(replica) for replica in following]
    assert all(commands == applied[0] for commands in applied)
    assert sum(r.core.role is Role.LEADER for r in following) == 1
