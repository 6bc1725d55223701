"""From TOML to checked settings; whatever is wrong is one line that names file and setting."""

from __future__ import annotations

import dataclasses
import math
import tomllib
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from kvstore.config.settings import (
    ADDRESS_CHARS_MAX,
    FRAME_BYTES_MAX,
    KIB,
    LOG_LEVELS,
    MIB,
    REPLICAS_DEFAULT,
    SHARDS_DEFAULT,
    SHARDS_MAX,
    WEIGHT_MAX,
    WEIGHT_MIN,
    ClusterConfig,
    EngineConfig,
    LimitsConfig,
    NodeAddress,
    NodeConfig,
    RaftConfig,
    WalConfig,
)
from kvstore.errors import ConfigError
from kvstore.ids import NodeId, is_node_id

_Settings = TypeVar("_Settings")
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
        if not is_node_id(node.id):
            raise ConfigError(
                f"node id {node.id!r}: letters, digits, '.', '_' and '-' only, at most 64"
            )
        if not is_address(node.address) or len(node.address) > ADDRESS_CHARS_MAX:
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
    """Whether ``text`` is ``host:port``, can be printed, and has a port from 1 to 65535."""
    host, _, port = text.rpartition(":")
    is_number = port.isascii() and port.isdigit() and len(port) <= PORT_DIGITS_MAX
    return bool(host) and host.isprintable() and is_number and 0 < int(port) < 65536


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
