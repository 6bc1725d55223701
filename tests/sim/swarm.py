"""What a seed draws: the cluster, its settings, and which faults are on and how strong.

Most faults are off in most seeds: a fault that is always on hides what the others would find
(swarm testing, Groce et al. 2012).
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from pathlib import Path

from kvstore.config import (
    MIB,
    ClusterConfig,
    LimitsConfig,
    NodeAddress,
    NodeConfig,
    RaftConfig,
    WalConfig,
)
from kvstore.ids import NodeId
from sim import control
from sim.control import Control
from sim.network import Conditions

KIB = 1024

NO_DIRECTORY = Path("/nonexistent")
"""A node's files are on its simulated disk instead."""


@dataclass
class Swarm:
    """One seed's circumstances. Rates are events per simulated second, for the whole cluster."""

    nodes: int
    shards: int
    time_scale: float
    """How slow this cluster is: its timeouts, its clients and its misfortunes alike."""
    seconds: float
    conditions: Conditions
    raft: RaftConfig
    wal: WalConfig
    limits: LimitsConfig
    clients: int
    keys: int
    think_s_max: float
    batch_max: int
    write_s_max: float
    thread_s_max: float
    clock_drift: float
    notice_share: float
    """How many of the others notice when a process dies."""
    batching_share: float
    """Of iterations that wait for more input before they end."""
    callers: int
    """Calls of one client at a time."""
    attempts_max: int
    """After so many a call is given up."""
    value_bytes_min: int
    install_faults: float
    """How often the moment of putting a snapshot in force is chosen for a fault."""
    balances_leaders: bool
    heals_a_core_first: bool
    """Progress is demanded first while a minority stays outside, or one link stays cut."""
    control: Control | None = field(default=None, repr=False)
    """What changes the shard map, where anything does."""
    membership: bool = False
    """Nodes also keep track of who lives."""
    limits_of: dict[NodeId, LimitsConfig] = field(default_factory=dict)
    """Where a node's configuration differs from the others'."""
    kills: float = 0.0
    graceful_stops: float = 0.0
    """Asked to, in good order."""
    power_cuts: float = 0.0
    cluster_power_cuts: float = 0.0
    """All nodes at once."""
    crash_points: float = 0.0
    """A node is to die within its next file operations."""
    crash_loops: float = 0.0
    pauses: float = 0.0
    partitions: float = 0.0
    isolated_leaders: float = 0.0
    membership_changes: float = 0.0
    transfers: float = 0.0
    clock_jumps: float = 0.0
    flushes: float = 0.0
    full_disks: float = 0.0
    failed_syncs: float = 0.0
    failed_operations: float = 0.0
    """Writes, changes of names, syncs of directories."""
    flipped_bits: float = 0.0
    spurious_suspicions: float = 0.0
    """News of a peer's death or return that is not true, or an election without need."""

    @property
    def faults(self) -> list[str]:
        """The names of those that are on."""
        names = [*RATES, *(n for n in ("loss", "duplication") if getattr(self.conditions, n))]
        return [n for n in names if getattr(self, n, 0.0) or getattr(self.conditions, n, 0.0)]

    @property
    def is_controlled(self) -> bool:
        """Whether the shard map changes, and with it who holds what."""
        return self.control is not None

    def configs(self) -> list[NodeConfig]:
        """The configuration of every node."""
        configs = self._fixed_configs()
        if self.control is None:
            return configs
        changed = control.configs(self.control, configs[0])
        return [replace(c, limits=self.limits_of.get(c.node_id, self.limits)) for c in changed]

    def _fixed_configs(self) -> list[NodeConfig]:
        names = [NodeId(f"n{number}") for number in range(1, self.nodes + 1)]
        addresses = tuple(
            NodeAddress(name, f"127.0.0.1:{number}") for number, name in enumerate(names, start=1)
        )
        cluster = ClusterConfig("sim", addresses, shards=self.shards, replicas=self.nodes)
        return [
            NodeConfig(name, NO_DIRECTORY, cluster, raft=self.raft, wal=self.wal,
                       limits=self.limits_of.get(name, self.limits))
            for name in names
        ]  # fmt: skip


RATES = {
    "kills": (0.05, 0.5),
    "graceful_stops": (0.05, 0.3),
    "power_cuts": (0.05, 0.5),
    "cluster_power_cuts": (0.02, 0.1),
    "crash_points": (0.1, 1.0),
    "crash_loops": (0.02, 0.1),
    "pauses": (0.05, 0.5),
    "partitions": (0.05, 0.5),
    "isolated_leaders": (0.05, 0.5),
    "membership_changes": (0.1, 2.0),
    "transfers": (0.1, 1.0),
    "clock_jumps": (0.05, 1.0),
    "flushes": (0.1, 2.0),
    "full_disks": (0.02, 0.2),
    "failed_syncs": (0.02, 0.2),
    "failed_operations": (0.02, 0.2),
    "flipped_bits": (0.02, 0.1),
    "spurious_suspicions": (0.1, 2.0),
}
"""How often each fault comes when it is on, from and to."""


MEMBERSHIP_SHARE = 0.3
QUIET_SHARE = 0.05
"""Of the seeds: no faults but those of the network, if any."""


def draw(rng: random.Random) -> Swarm:
    """The circumstances of one seed."""
    time_scale = rng.choice((1.0, 1.0, 2.0, 3.0, 6.0))
    swarm = Swarm(
        nodes=rng.choice((3, 3, 5, 5, 5, 4, 2, 1)),
        shards=rng.choice((1, 1, 1, 2)),
        time_scale=time_scale,
        seconds=time_scale * rng.choice((15.0, 30.0, 50.0)),
        conditions=_conditions(rng, time_scale),
        raft=_raft(rng, time_scale),
        wal=WalConfig(
            segment_bytes=rng.choice((4, 16, 64, 256)) * KIB,
            live_bytes_max=rng.choice((16, 128, 4096)) * KIB,
            reserve_bytes=8 * KIB,
        ),
        limits=LimitsConfig(
            session_ttl_s=rng.choice((2.0 * time_scale, 3600.0, 3600.0)),
            sessions_per_shard_max=rng.choice((2, 10_000, 10_000)),
            request_timeout_s=time_scale * rng.choice((0.3, 1.0, 10.0)),
        ),
        clients=rng.randint(2, 6),
        keys=rng.randint(1, 8),
        think_s_max=time_scale * rng.choice((0.4, 1.0, 4.0)),
        batch_max=rng.choice((1, 1, 3)),
        write_s_max=rng.choice((0.0005, 0.005, 0.05)),
        thread_s_max=rng.choice((0.001, 0.02, 0.3)),
        clock_drift=rng.choice((0.0, 0.01, 0.045)),
        notice_share=rng.choice((0.0, 0.5, 1.0)),
        batching_share=rng.choice((0.0, 0.0, 0.2, 0.7)),
        callers=rng.choice((1, 1, 3)),
        attempts_max=rng.choice((1, 1000, 1000, 1000)),
        value_bytes_min=rng.choice((0, 0, 0, 0, 0, 5000)),
        install_faults=rng.choice((0.0, 0.0, 0.5)),
        balances_leaders=rng.random() < 0.5,
        heals_a_core_first=rng.random() < 0.5,
    )
    if not swarm.raft.lease_reads and rng.random() < 0.2:
        swarm.clock_drift = 0.25  # nothing but leases rests on how fast clocks are
    if swarm.value_bytes_min:  # in pieces that let a snapshot end in time
        swarm.raft = replace(swarm.raft, snapshot_chunk_bytes=256 * KIB)
    if rng.random() < 0.2:
        odd = NodeId(f"n{rng.randint(1, swarm.nodes)}")
        swarm.limits_of[odd] = replace(
            swarm.limits, session_ttl_s=4.0 * time_scale, sessions_per_shard_max=3
        )
    strength = rng.choice((0.3, 1.0, 1.0)) / time_scale
    if rng.random() < QUIET_SHARE:
        strength = 0.0
    for name, (low, high) in RATES.items():
        if rng.random() < 0.35:
            setattr(swarm, name, strength * rng.uniform(low, high))
    if strength and swarm.raft.lease_reads and rng.random() < 0.5:
        swarm.isolated_leaders = 0.5 / time_scale
    # Drawn aside: without them a seed is the run that it was before there were any.
    swarm.membership = random.Random(repr(swarm)).random() < MEMBERSHIP_SHARE
    swarm.control = control.draw(repr(swarm), time_scale) if swarm.nodes > 2 else None
    if swarm.control is not None:
        _control(swarm, swarm.control)
    return swarm


def _control(swarm: Swarm, drawn: Control) -> None:
    """The cluster is another one than was drawn at first."""
    swarm.nodes, swarm.shards = drawn.nodes, drawn.shards
    swarm.seconds = min(max(swarm.seconds, 20.0 * swarm.time_scale), 30.0 * swarm.time_scale)
    swarm.membership = True
    swarm.balances_leaders = True
    # Who is a voter is for the controller to say; and nobody's data is lost.
    swarm.membership_changes = swarm.flipped_bits = 0.0
    swarm.heals_a_core_first = False


def _conditions(rng: random.Random, time_scale: float) -> Conditions:
    def sometimes(most: float) -> float:
        return rng.uniform(0.0, most) if rng.random() < 0.4 else 0.0

    is_stream = rng.random() < 0.5
    return Conditions(
        is_stream=is_stream,
        loss=sometimes(0.02 if is_stream else 0.2),
        duplication=0.0 if is_stream else sometimes(0.2),
        delay_s_max=rng.choice((0.001, 0.005, 0.05)),
        slow_share=sometimes(0.02),
        copy_late_s_max=3.0 * time_scale,
    )


def _raft(rng: random.Random, time_scale: float) -> RaftConfig:
    return RaftConfig(
        heartbeat_interval_s=0.2 * time_scale,
        election_timeout_s_min=0.5 * time_scale,
        election_timeout_s_max=2.0 * time_scale,
        lease_reads=rng.random() < 0.4,
        log_bytes_max=rng.choice((600, 4000, 8 * MIB)),
        append_bytes_max=rng.choice((200, 2000, MIB)),
        inflight_messages_max=rng.choice((1, 4, 256)),
        snapshot_chunk_bytes=rng.choice((200, 1000, 256 * KIB)),
        snapshot_chunks_inflight_max=rng.choice((1, 4)),
    )
