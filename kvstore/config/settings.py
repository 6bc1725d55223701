"""The settings themselves, and what each is for."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from kvstore.config.swim import SwimConfig
from kvstore.ids import NodeId

KIB = 1024
MIB = 1024 * KIB

SHARDS_DEFAULT = 4
SHARDS_MAX = 1024
REPLICAS_DEFAULT = 3
WEIGHT_MIN = 0.01
WEIGHT_MAX = 100.0
"""A node has 128 places on the ring for each 1.0, so heavier ones would cost time."""
FRAME_BYTES_MAX = 1024 * MIB
ADDRESS_CHARS_MAX = 255
"""Of a node's own address in bytes, too: no name of a host is longer."""
ZONE_CHARS_MAX = 64
"""What a node says of itself travels in every exchange of views, so it is bounded."""
SEEDS_MAX = 64
LOG_LEVELS = ("debug", "info", "warning", "error")


@dataclass(frozen=True, slots=True)
class RaftConfig:
    """Timing and flow control of every group (DESIGN section 4)."""

    heartbeat_interval_s: float = 0.2
    election_timeout_s_min: float = 0.5
    """Lower bound of the adaptive timeout; also how long a voter protects its leader."""
    election_timeout_s_max: float = 2.0
    phi_threshold: float = 8.0
    """Suspicion at which a leader counts as lost: 8 means one false alarm in 10^8."""
    fast_election_delay_s_max: float = 0.02
    """Random wait before a pre-vote once the leader's process is known to be gone."""
    lease_reads: bool = False
    clock_drift_max: float = 0.1
    """Fraction by which two clocks' speeds may differ; shortens the leader lease."""
    inflight_messages_max: int = 256
    inflight_bytes_max: int = 16 * MIB
    append_bytes_max: int = MIB
    """Entries gathered into one append message, unless a single one is larger."""
    uncommitted_bytes_max: int = 64 * MIB
    """Proposals are refused beyond this many bytes of uncommitted entries."""
    log_bytes_max: int = 8 * MIB
    """Applied entries kept in memory for slow followers, per group."""
    snapshot_chunk_bytes: int = 256 * KIB
    snapshot_chunks_inflight_max: int = 4


@dataclass(frozen=True, slots=True)
class WalConfig:
    """The write-ahead log shared by all groups of a node (DESIGN section 6)."""

    segment_bytes: int = 64 * MIB
    live_bytes_max: int = 256 * MIB
    """Segments beyond this make the engine flush, so that old ones can go."""
    reserve_bytes: int = MIB
    """A file kept so that terms and votes can still be written on a full disk."""


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """RocksDB (DESIGN section 7)."""

    memtable_bytes: int = 32 * MIB
    block_cache_bytes: int = 32 * MIB
    row_cache_bytes: int = 64 * MIB
    background_jobs: int = 2


@dataclass(frozen=True, slots=True)
class LimitsConfig:
    """Every bound on input and on queues."""

    key_bytes_max: int = 8 * KIB
    value_bytes_max: int = 8 * MIB
    frame_bytes_max: int = 16 * MIB
    connections_max: int = 4096
    hello_timeout_s: float = 5.0
    """A connection that has not said hello by then is closed."""
    pending_bytes_max: int = 64 * MIB
    """Client requests held by a node; beyond it they are refused as overloaded."""
    outbound_bytes_max: int = 32 * MIB
    """Unsent bytes on one connection, beyond which it is not read, then closed."""
    lane_bytes_max: int = 32 * MIB
    """Unsent bytes to one peer on one lane, beyond which messages are dropped."""
    request_timeout_s: float = 10.0
    """A request unanswered for so long is answered as of unknown outcome."""
    clock_ahead_ms_max: int = 500
    disk_free_bytes_min: int = 64 * MIB
    """With less room than this, writes are refused as retryable."""
    session_ttl_s: float = 3600.0
    sessions_per_shard_max: int = 10_000


@dataclass(frozen=True, slots=True)
class ShardingConfig:
    """What the cluster does about its replicas by itself (DESIGN section 5).

    Read by the node that leads the meta group: it should be the same on all.
    """

    replace_after_s: float = 60.0
    """A node that is dead for so long gives its replicas to others, where there are enough; 0 =
    never."""
    moves_max: int = 2
    """Replicas on their way at once, in the whole cluster."""
    move_bytes_per_s_max: int = 128 * 1024 * 1024
    """Of snapshots that a node sends to replicas that come, less while clients wait longer than
    usual; old log counts four times. Those that come back wait for nothing."""
    balances: bool = True
    """Whether replicas move only to make the load even, such as to a node that has joined."""


@dataclass(frozen=True, slots=True)
class NodeAddress:
    """One member of the cluster as the configuration names it."""

    id: NodeId
    address: str
    """``host:port``."""
    weight: float = 1.0
    """Its part of the load in relation to the others."""
    zone: str = ""
    """What fails together; empty for a zone of its own. At most ``ZONE_CHARS_MAX`` characters."""

    @property
    def host(self) -> str:
        """The host part of ``address``, an IPv6 address without its brackets."""
        return self.address.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        """The port part of ``address``."""
        return int(self.address.rpartition(":")[2])


@dataclass(frozen=True, slots=True)
class ClusterConfig:
    """What all nodes of one cluster must agree on."""

    id: str
    nodes: tuple[NodeAddress, ...]
    """Those that found the cluster; a node that joins it later may leave them out."""
    shards: int = SHARDS_DEFAULT
    """A power of two, chosen once when the cluster is first started."""
    replicas: int = REPLICAS_DEFAULT
    seeds: tuple[str, ...] = ()
    """Addresses through which a node finds the others, beside those of ``nodes``."""

    @property
    def addresses(self) -> dict[NodeId, str]:
        """Where those that are named here are reached from here, whatever others say."""
        return {node.id: node.address for node in self.nodes}

    def node(self, node_id: str) -> NodeAddress:
        """The member called ``node_id``; raises KeyError when there is none."""
        for node in self.nodes:
            if node.id == node_id:
                return node
        raise KeyError(node_id)


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """Everything that one process needs to know before it starts."""

    node_id: NodeId
    data_dir: Path
    cluster: ClusterConfig
    joining: NodeAddress | None = None
    """Itself, if it is none of ``cluster.nodes`` but joins them."""
    admin_port: int = 0
    """Kept for the admin endpoint; 0 = none."""
    log_level: str = "info"
    raft: RaftConfig = field(default_factory=RaftConfig)
    swim: SwimConfig = field(default_factory=SwimConfig)
    wal: WalConfig = field(default_factory=WalConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    sharding: ShardingConfig = field(default_factory=ShardingConfig)

    @property
    def address(self) -> NodeAddress:
        """This node's own name and address."""
        return self.joining or self.cluster.node(self.node_id)

    @property
    def seeds(self) -> tuple[str, ...]:
        """Where to look for other nodes; never this node itself."""
        named = (*(node.address for node in self.cluster.nodes), *self.cluster.seeds)
        return tuple(a for a in dict.fromkeys(named) if a != self.address.address)
