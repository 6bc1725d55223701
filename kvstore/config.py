"""A node's configuration: frozen, checked once, every quantity named with its unit.

``configs/node.toml`` is the commented form of the same settings.
"""

from __future__ import annotations

import dataclasses
import math
import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from kvstore.errors import ConfigError
from kvstore.ids import NodeId

KIB = 1024
MIB = 1024 * KIB

SHARDS_DEFAULT = 8
SHARDS_MAX = 1024
REPLICAS_DEFAULT = 3
WEIGHT_MIN = 0.01
WEIGHT_MAX = 100.0
"""A node has 128 places on the ring for each 1.0, so heavier ones would cost time."""
FRAME_BYTES_MAX = 1024 * MIB
LOG_LEVELS = ("debug", "info", "warning", "error")

_Settings = TypeVar("_Settings")
_NODE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


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
class NodeAddress:
    """One member of the cluster as the configuration names it."""

    id: NodeId
    address: str
    """``host:port``."""
    weight: float = 1.0
    """Its part of the load in relation to the others."""
    zone: str = ""
    """What fails together; empty for a zone of its own."""

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
    shards: int = SHARDS_DEFAULT
    """A power of two, chosen once when the cluster is first started."""
    replicas: int = REPLICAS_DEFAULT

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
    admin_port: int = 0
    """Kept for the admin endpoint; 0 = none."""
    log_level: str = "info"
    raft: RaftConfig = field(default_factory=RaftConfig)
    wal: WalConfig = field(default_factory=WalConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    limits: LimitsConfig = field(default_factory=LimitsConfig)

    @property
    def address(self) -> NodeAddress:
        """This node's own entry in the cluster."""
        return self.cluster.node(self.node_id)


def load(path: Path) -> NodeConfig:
    """Read and check a TOML file.

    Raises:
        ConfigError: names the file, the setting and what is wrong with it.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    return parse(text, source=str(path), relative_to=path.parent)


def parse(text: str, *, source: str = "<config>", relative_to: Path = Path()) -> NodeConfig:
    """Check TOML ``text``; a relative ``data_dir`` is taken from ``relative_to``.

    Raises:
        ConfigError: names ``source``, the setting and what is wrong with it.
    """
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{source}: not TOML: {error}") from error
    try:
        config = _node_config(table, relative_to)
        _check(config)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error.message}") from error
    return config


def _node_config(table: dict[str, Any], relative_to: Path) -> NodeConfig:
    known = {"node", "cluster", "raft", "wal", "engine", "limits"}
    _refuse_unknown(table, known, "")
    node = _section(table, "node")
    _refuse_unknown(node, {"id", "data_dir", "admin_port", "log_level"}, "node.")
    return NodeConfig(
        node_id=NodeId(_value(node, "node.id", str)),
        data_dir=relative_to / _value(node, "node.data_dir", str),
        admin_port=_value(node, "node.admin_port", int, 0),
        log_level=_value(node, "node.log_level", str, "info"),
        cluster=_cluster_config(_section(table, "cluster")),
        raft=_flat(RaftConfig, table, "raft"),
        wal=_flat(WalConfig, table, "wal"),
        engine=_flat(EngineConfig, table, "engine"),
        limits=_flat(LimitsConfig, table, "limits"),
    )


def _cluster_config(table: dict[str, Any]) -> ClusterConfig:
    _refuse_unknown(table, {"id", "shards", "replicas", "nodes"}, "cluster.")
    rows = table.get("nodes")
    if not isinstance(rows, list) or not rows:
        raise ConfigError("cluster.nodes must be a list of at least one [[cluster.nodes]] table")
    nodes = []
    for position, row in enumerate(rows):
        prefix = f"cluster.nodes[{position}]"
        if not isinstance(row, dict):
            raise ConfigError(f"{prefix} must be a table")
        _refuse_unknown(row, {"id", "address", "weight", "zone"}, f"{prefix}.")
        nodes.append(
            NodeAddress(
                id=NodeId(_value(row, f"{prefix}.id", str)),
                address=_value(row, f"{prefix}.address", str),
                weight=_value(row, f"{prefix}.weight", float, 1.0),
                zone=_value(row, f"{prefix}.zone", str, ""),
            )
        )
    return ClusterConfig(
        id=_value(table, "cluster.id", str),
        nodes=tuple(nodes),
        shards=_value(table, "cluster.shards", int, SHARDS_DEFAULT),
        replicas=_value(table, "cluster.replicas", int, min(REPLICAS_DEFAULT, len(nodes))),
    )


def _flat(kind: type[_Settings], table: dict[str, Any], name: str) -> _Settings:
    """A section whose settings are exactly the fields of the dataclass ``kind``."""
    section = _section(table, name, required=False)
    hints = get_type_hints(kind)
    _refuse_unknown(section, set(hints), f"{name}.")
    return kind(**{key: _value(section, f"{name}.{key}", hints[key]) for key in section})


def _section(table: dict[str, Any], name: str, *, required: bool = True) -> dict[str, Any]:
    section = table.get(name, None if required else {})
    if section is None:
        raise ConfigError(f"the section [{name}] is missing")
    if not isinstance(section, dict):
        raise ConfigError(f"{name} must be a section, [{name}]")
    return section


def _refuse_unknown(table: dict[str, Any], known: set[str], prefix: str) -> None:
    unknown = sorted(set(table) - known)
    if unknown:
        raise ConfigError(
            f"unknown setting {prefix}{unknown[0]} (known: {', '.join(sorted(known))})"
        )


def _value(table: dict[str, Any], name: str, kind: type, default: Any = None) -> Any:
    value = table.get(name.rpartition(".")[2], default)
    if value is None:
        raise ConfigError(f"{name} is missing")
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ConfigError(f"{name} must be {_KIND_NAMES[kind]}, not {value!r}")
    return value


_KIND_NAMES = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}


def _check(config: NodeConfig) -> None:
    cluster = config.cluster
    _check_nodes(cluster)
    if config.node_id not in {node.id for node in cluster.nodes}:
        raise ConfigError(f"node.id {config.node_id!r} is not among cluster.nodes")
    if not config.data_dir.name:
        raise ConfigError("node.data_dir must name a directory")
    if not cluster.id:
        raise ConfigError("cluster.id must not be empty")
    if not 1 <= cluster.shards <= SHARDS_MAX or cluster.shards & (cluster.shards - 1):
        raise ConfigError(
            f"cluster.shards must be a power of two from 1 to {SHARDS_MAX}, not {cluster.shards}"
        )
    if not 1 <= cluster.replicas <= len(cluster.nodes):
        raise ConfigError(
            f"cluster.replicas must be from 1 to the number of nodes ({len(cluster.nodes)}), "
            f"not {cluster.replicas}"
        )
    if not 0 <= config.admin_port < 65536:
        raise ConfigError(f"node.admin_port must be from 0 to 65535, not {config.admin_port}")
    if config.admin_port == config.address.port:
        raise ConfigError(f"node.admin_port {config.admin_port} is the node's own port")
    if config.log_level not in LOG_LEVELS:
        raise ConfigError(f"node.log_level must be one of {', '.join(LOG_LEVELS)}")
    for name in ("raft", "wal", "engine", "limits"):
        _check_positive(name, getattr(config, name))
    _check_relations(config)


def _check_nodes(cluster: ClusterConfig) -> None:
    seen: set[str] = set()
    for node in cluster.nodes:
        if not _NODE_ID.fullmatch(node.id):
            raise ConfigError(
                f"node id {node.id!r}: letters, digits, '.', '_' and '-' only, at most 64"
            )
        if not is_address(node.address):
            raise ConfigError(f"node {node.id}: address {node.address!r} is not host:port")
        if node.id in seen or node.address in seen:
            raise ConfigError(f"two nodes share the id or address of {node.id} ({node.address})")
        if not WEIGHT_MIN <= node.weight <= WEIGHT_MAX:
            raise ConfigError(
                f"node {node.id}: weight must be from {WEIGHT_MIN} to {WEIGHT_MAX}, "
                f"not {node.weight}"
            )
        seen |= {node.id, node.address}


def is_address(text: str) -> bool:
    """Whether ``text`` is ``host:port`` with a port from 1 to 65535."""
    host, colon, port = text.rpartition(":")
    return bool(host and colon and port.isascii() and port.isdigit() and 0 < int(port) < 65536)


def _check_positive(name: str, section: Any) -> None:
    for setting in dataclasses.fields(section):
        value = getattr(section, setting.name)
        if not isinstance(value, bool) and not 0 < value < math.inf:
            raise ConfigError(f"{name}.{setting.name} must be above 0 and finite, not {value}")


def _check_relations(config: NodeConfig) -> None:
    raft, limits = config.raft, config.limits
    if raft.election_timeout_s_min < 2 * raft.heartbeat_interval_s:
        raise ConfigError("raft.election_timeout_s_min must be at least two heartbeat intervals")
    if raft.election_timeout_s_max < raft.election_timeout_s_min:
        raise ConfigError("raft.election_timeout_s_max must not be below election_timeout_s_min")
    if raft.clock_drift_max >= 1:
        raise ConfigError("raft.clock_drift_max is a fraction and must be below 1")
    if limits.frame_bytes_max < limits.key_bytes_max + limits.value_bytes_max + 64 * KIB:
        raise ConfigError("limits.frame_bytes_max must hold the largest key and value and 64 KiB")
    if limits.frame_bytes_max > FRAME_BYTES_MAX:
        raise ConfigError(f"limits.frame_bytes_max must be at most {FRAME_BYTES_MAX} (1 GiB)")
    if raft.snapshot_chunk_bytes > limits.frame_bytes_max // 2:
        raise ConfigError(
            "raft.snapshot_chunk_bytes must be at most half of limits.frame_bytes_max"
        )
    if config.wal.segment_bytes < MIB:
        raise ConfigError("wal.segment_bytes must be at least 1 MiB")
