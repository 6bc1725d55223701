"""Figures beside the table: how even the load is, and how fast placement is computed."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from elasticity.driver import running_load
from elasticity.level import max_over_mean
from elasticity.stage import staged
from kvstore.config import NodeAddress
from kvstore.ids import NodeId
from kvstore.sharding.placement import placement

if TYPE_CHECKING:
    from elasticity.stage import Stage

NODES = 5
SHARDS = 64
PLACED_NODES = 1000
PLACED_SHARDS = 10_000
PLACED_REPLICAS = 3


@dataclass(frozen=True, slots=True)
class Balance:
    """What each node says that it holds."""

    shards: int
    keys: dict[str, int]
    bytes: dict[str, int]

    @property
    def keys_ratio(self) -> float:
        """The most that a node has, over what it would have if all had the same."""
        return max_over_mean(self.keys.values())

    @property
    def bytes_ratio(self) -> float:
        """Likewise of keys' and values' bytes."""
        return max_over_mean(self.bytes.values())

    def to_json(self) -> dict[str, Any]:
        """For the file."""
        ratios = {"keys_ratio": self.keys_ratio, "bytes_ratio": self.bytes_ratio}
        return {**asdict(self), **{name: round(ratio, 4) for name, ratio in ratios.items()}}


async def balance_of(stage: Stage) -> Balance:
    """As the nodes say now."""
    rows = await stage.rows()
    keys = {node: sum(row["keys"] for row in held) for node, held in sorted(rows.items())}
    sizes = {node: sum(row["bytes"] for row in held) for node, held in sorted(rows.items())}
    return Balance((await stage.shard_map()).shards, keys, sizes)


async def founded_balance(keys: int) -> Balance:
    """Of a cluster that was founded by five nodes with 64 shards, and then filled."""
    async with (
        staged(NODES, SHARDS) as stage,
        running_load(stage.endpoints, keys, rate=1.0) as load,
    ):
        await load.ask("fill")
        await stage.until_applied()
        return await balance_of(stage)


def placement_s() -> float:
    """Of one core, to place 10,000 shards on 1,000 nodes from nothing."""
    nodes = [NodeAddress(NodeId(f"n{number}"), "") for number in range(PLACED_NODES)]
    began = time.process_time()
    placement(nodes, PLACED_SHARDS, PLACED_REPLICAS)
    return time.process_time() - began
