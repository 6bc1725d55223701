"""From TOML to checked settings; whatever is wrong is one line that names file and setting."""

from __future__ import annotations

import dataclasses
import math
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_type_hints

from kvstore.config.settings import (
    ADDRESS_CHARS_MAX,
    FRAME_BYTES_MAX,
    KIB,
    LOG_LEVELS,
    MIB,
    REPLICAS_DEFAULT,
    SEEDS_MAX,
    SHARDS_DEFAULT,
    SHARDS_MAX,
    WEIGHT_MAX,
    WEIGHT_MIN,
    ZONE_CHARS_MAX,
    ClusterConfig,
    EngineConfig,
    LimitsConfig,
    NodeAddress,
    NodeConfig,
    RaftConfig,
    ShardingConfig,
    WalConfig,
)
from kvstore.config.swim import PROFILES, SwimConfig
from kvstore.errors import ConfigError
from kvstore.ids import NodeId, is_node_id

if TYPE_CHECKING:
    from collections.abc import Iterable

_Settings = TypeVar("_Settings")
AWARENESS_MAX = 64
PIGGYBACK_BYTES_MIN = 1024
MOVE_BYTES_PER_S_MIN = 64 * KIB
PORT_DIGITS_MAX = 5


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
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{source}: not TOML: {error}") from error
    try:
        config = _node_config(table, relative_to)
        _check(config)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error.message}") from error
    return config


def with_seeds(config: NodeConfig, text: str) -> NodeConfig:
    """Add the addresses in ``text``, separated by commas, to the seeds.

    Raises:
        ConfigError: one is no address, or a node that joins is left without any.
    """
    named = [seed.strip() for seed in text.split(",")] if text.strip() else []
    seeds = _check_seeds([*config.cluster.seeds, *named])
    config = dataclasses.replace(config, cluster=dataclasses.replace(config.cluster, seeds=seeds))
    if config.joining is not None and not config.seeds:
        raise ConfigError(
            f"{config.node_id} joins a cluster and needs a node to ask: set cluster.seeds, "
            "or name one with --join host:port"
        )
    return config


def _node_config(table: dict[str, Any], relative_to: Path) -> NodeConfig:
    known = {"node", "cluster", "raft", "swim", "wal", "engine", "limits", "sharding"}
    _refuse_unknown(table, known, "")
    node = _section(table, "node")
    own = {"address", "weight", "zone"}
    _refuse_unknown(node, {"id", "data_dir", "admin_port", "log_level", *own}, "node.")
    return NodeConfig(
        node_id=NodeId(_value(node, "node.id", str)),
        data_dir=relative_to / _value(node, "node.data_dir", str),
        admin_port=_value(node, "node.admin_port", int, 0),
        log_level=_value(node, "node.log_level", str, "info"),
        cluster=_cluster_config(_section(table, "cluster")),
        joining=_node_address(node, "node") if own & set(node) else None,
        raft=_flat(RaftConfig, table, "raft"),
        swim=_swim_config(table),
        wal=_flat(WalConfig, table, "wal"),
        sharding=_flat(ShardingConfig, table, "sharding"),
        engine=_flat(EngineConfig, table, "engine"),
        limits=_flat(LimitsConfig, table, "limits"),
    )


def _cluster_config(table: dict[str, Any]) -> ClusterConfig:
    _refuse_unknown(table, {"id", "shards", "replicas", "nodes", "seeds"}, "cluster.")
    rows = table.get("nodes", [])
    if not isinstance(rows, list):
        raise ConfigError("cluster.nodes must be a list of [[cluster.nodes]] tables")
    seeds = table.get("seeds", [])
    if not isinstance(seeds, list):
        raise ConfigError('cluster.seeds must be a list of addresses, ["host:port", ...]')
    nodes = []
    for position, row in enumerate(rows):
        prefix = f"cluster.nodes[{position}]"
        if not isinstance(row, dict):
            raise ConfigError(f"{prefix} must be a table")
        _refuse_unknown(row, {"id", "address", "weight", "zone"}, f"{prefix}.")
        nodes.append(_node_address(row, prefix))
    return ClusterConfig(
        id=_value(table, "cluster.id", str),
        nodes=tuple(nodes),
        shards=_value(table, "cluster.shards", int, SHARDS_DEFAULT),
        replicas=_value(
            table, "cluster.replicas", int, min(REPLICAS_DEFAULT, len(nodes) or REPLICAS_DEFAULT)
        ),
        seeds=_check_seeds(seeds),
    )


def _check_seeds(seeds: Iterable[object]) -> tuple[str, ...]:
    """The addresses, if they are.

    Raises:
        ConfigError: names the one that is none.
    """
    checked = []
    for seed in seeds:
        if not isinstance(seed, str) or not is_address(seed):
            raise ConfigError(f"seed {seed!r} is not host:port")
        checked.append(seed)
    if len(checked) > SEEDS_MAX:
        raise ConfigError(
            f"{len(checked)} seeds; at most {SEEDS_MAX}, and one that lives is enough"
        )
    return tuple(checked)


def _node_address(row: dict[str, Any], prefix: str) -> NodeAddress:
    return NodeAddress(
        id=NodeId(_value(row, f"{prefix}.id", str)),
        address=_value(row, f"{prefix}.address", str),
        weight=_value(row, f"{prefix}.weight", float, 1.0),
        zone=_value(row, f"{prefix}.zone", str, ""),
    )


def _swim_config(table: dict[str, Any]) -> SwimConfig:
    """A profile, and what is set differently from it."""
    section = dict(_section(table, "swim", required=False))
    name = section.pop("profile", "local")
    if not isinstance(name, str) or name not in PROFILES:
        raise ConfigError(f"swim.profile must be one of {', '.join(PROFILES)}, not {name!r}")
    hints = get_type_hints(SwimConfig)
    _refuse_unknown(section, set(hints), "swim.")
    changed = {key: _value(section, f"swim.{key}", hints[key]) for key in section}
    return dataclasses.replace(PROFILES[name], **changed)


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
    _check_own(config)
    if not config.data_dir.name:
        raise ConfigError("node.data_dir must name a directory")
    if not cluster.id:
        raise ConfigError("cluster.id must not be empty")
    if not 1 <= cluster.shards <= SHARDS_MAX or cluster.shards & (cluster.shards - 1):
        raise ConfigError(
            f"cluster.shards must be a power of two from 1 to {SHARDS_MAX}, not {cluster.shards}"
        )
    if cluster.nodes and not 1 <= cluster.replicas <= len(cluster.nodes):
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
    _check_swim(config.swim)
    _check_sharding(config.sharding)


def _check_sharding(sharding: ShardingConfig) -> None:
    if not 0 <= sharding.replace_after_s < math.inf:
        raise ConfigError("sharding.replace_after_s must be 0 (never) or above, and finite")
    if sharding.moves_max < 1:
        raise ConfigError("sharding.moves_max must be at least 1")
    if sharding.move_bytes_per_s_max < MOVE_BYTES_PER_S_MIN:
        raise ConfigError(f"sharding.move_bytes_per_s_max must be at least {MOVE_BYTES_PER_S_MIN}")


def _check_own(config: NodeConfig) -> None:
    """A node is one of those that found the cluster, or joins it."""
    own, founders = config.joining, config.cluster.nodes
    if any(node.id == config.node_id for node in founders):
        if own is not None:
            raise ConfigError(
                f"node.address, node.weight and node.zone are for a node that joins; "
                f"those of {config.node_id} stand in cluster.nodes"
            )
        return
    if own is None:
        raise ConfigError(
            f"node.id {config.node_id!r} is not among cluster.nodes; to join them it needs "
            "node.address"
        )
    _check_node(own)
    if any(node.address == own.address for node in founders):
        raise ConfigError(f"node.address {own.address} is another node's in cluster.nodes")


def _check_nodes(cluster: ClusterConfig) -> None:
    seen: set[str] = set()
    for node in cluster.nodes:
        _check_node(node)
        if node.id in seen or node.address in seen:
            raise ConfigError(f"two nodes share the id or address of {node.id} ({node.address})")
        seen |= {node.id, node.address}


def _check_node(node: NodeAddress) -> None:
    if not is_node_id(node.id):
        raise ConfigError(
            f"node id {node.id!r}: letters, digits, '.', '_' and '-' only, at most 64"
        )
    if not is_address(node.address) or len(node.address.encode()) > ADDRESS_CHARS_MAX:
        raise ConfigError(f"node {node.id}: address {node.address!r} is not host:port")
    if not WEIGHT_MIN <= node.weight <= WEIGHT_MAX:
        raise ConfigError(
            f"node {node.id}: weight must be from {WEIGHT_MIN} to {WEIGHT_MAX}, not {node.weight}"
        )
    if len(node.zone) > ZONE_CHARS_MAX:
        raise ConfigError(
            f"node {node.id}: the zone has {len(node.zone)} characters; "
            f"at most {ZONE_CHARS_MAX} are allowed"
        )
    if not node.zone.isprintable():
        raise ConfigError(f"node {node.id}: the zone {node.zone!r} cannot be printed")


def is_address(text: str) -> bool:
    """Whether ``text`` is ``host:port``, can be printed, and has a port from 1 to 65535."""
    host, _, port = text.rpartition(":")
    is_number = port.isascii() and port.isdigit() and len(port) <= PORT_DIGITS_MAX
    return bool(host) and host.isprintable() and is_number and 0 < int(port) < 65536


def _check_positive(name: str, section: Any) -> None:
    for setting in dataclasses.fields(section):
        value = getattr(section, setting.name)
        if not isinstance(value, bool) and not 0 < value < math.inf:
            raise ConfigError(f"{name}.{setting.name} must be above 0 and finite, not {value}")


def _check_swim(swim: SwimConfig) -> None:
    if not 0 <= swim.awareness_max <= AWARENESS_MAX:
        raise ConfigError(f"swim.awareness_max must be from 0 to {AWARENESS_MAX}")
    if swim.awareness_max == 0:
        swim = dataclasses.replace(swim, awareness_max=1)
    _check_positive("swim", swim)
    if swim.probe_interval_s < 2 * swim.probe_timeout_s:
        raise ConfigError("swim.probe_interval_s must be at least two probe timeouts")
    if swim.suspicion_max_mult < 1:
        raise ConfigError("swim.suspicion_max_mult must be at least 1")
    if not PIGGYBACK_BYTES_MIN <= swim.piggyback_bytes_max <= MIB:
        raise ConfigError(
            f"swim.piggyback_bytes_max must be from {PIGGYBACK_BYTES_MIN} to {MIB}, for one "
            "piece of news must fit"
        )


def _check_relations(config: NodeConfig) -> None:
    raft, limits = config.raft, config.limits
    if raft.election_timeout_s_min < 2 * raft.heartbeat_interval_s:
        raise ConfigError("raft.election_timeout_s_min must be at least two heartbeat intervals")
    if raft.election_timeout_s_max < raft.election_timeout_s_min:
        raise ConfigError("raft.election_timeout_s_max must not be below election_timeout_s_min")
    if raft.clock_drift_max >= 1:
        raise ConfigError("raft.clock_drift_max is a fraction and must be below 1")
    if config.wal.segment_bytes < MIB:
        raise ConfigError("wal.segment_bytes must be at least 1 MiB")
    _check_frames(raft, limits)


def _check_frames(raft: RaftConfig, limits: LimitsConfig) -> None:
    """Whatever may be asked for fits a frame, and each frame the queue that it has to pass."""
    frame_bytes_max = limits.frame_bytes_max
    if frame_bytes_max < limits.key_bytes_max + limits.value_bytes_max + 64 * KIB:
        raise ConfigError("limits.frame_bytes_max must hold the largest key and value and 64 KiB")
    if frame_bytes_max > FRAME_BYTES_MAX:
        raise ConfigError(f"limits.frame_bytes_max must be at most {FRAME_BYTES_MAX} (1 GiB)")
    for name in ("append_bytes_max", "snapshot_chunk_bytes"):
        if getattr(raft, name) > frame_bytes_max // 2:
            raise ConfigError(f"raft.{name} must be at most half of limits.frame_bytes_max")
    if limits.outbound_bytes_max < 2 * frame_bytes_max:
        raise ConfigError("limits.outbound_bytes_max must be at least twice limits.frame_bytes_max")
    if limits.lane_bytes_max < frame_bytes_max:
        raise ConfigError("limits.lane_bytes_max must not be below limits.frame_bytes_max")
