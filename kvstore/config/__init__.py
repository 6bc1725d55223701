"""A node's configuration: frozen, checked once, every quantity named with its unit.

``configs/node.toml`` is the commented form of the same settings.
"""

from kvstore.config.parsing import is_address, load, parse, with_seeds
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

__all__ = [
    "ADDRESS_CHARS_MAX",
    "FRAME_BYTES_MAX",
    "KIB",
    "LOG_LEVELS",
    "MIB",
    "PROFILES",
    "REPLICAS_DEFAULT",
    "SHARDS_DEFAULT",
    "SHARDS_MAX",
    "WEIGHT_MAX",
    "WEIGHT_MIN",
    "ZONE_CHARS_MAX",
    "ClusterConfig",
    "EngineConfig",
    "LimitsConfig",
    "NodeAddress",
    "NodeConfig",
    "RaftConfig",
    "ShardingConfig",
    "SwimConfig",
    "WalConfig",
    "is_address",
    "load",
    "parse",
    "with_seeds",
]
