"""What is drawn for a cluster that is controlled: its shard map changes, by orders and by itself.

It is founded on three nodes; one or two more wait to be added. Drawn aside, so that all other
seeds are the runs that they were before there was any of it.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from kvstore.config import ClusterConfig, NodeAddress, NodeConfig, ShardingConfig
from kvstore.ids import NodeId

CONTROLLED_SHARE = 0.75
TIME_SCALE_MAX = 2.0
"""The controller's own times do not scale: a slower cluster costs too much."""
SALT = 32577
"""By it no seed that was kept before is controlled: each is the run still that it was kept for."""
FOUNDERS = 3

RATES = {
    "orders": (0.05, 0.5),
    "orders_at_once": (0.02, 0.2),
    "additions": (0.1, 0.5),
    "long_absences": (0.02, 0.15),
    "meta_leaders_lost": (0.05, 0.3),
    "movers_lost": (0.05, 0.4),
    "deafness": (0.05, 0.3),
    "cancellations": (0.05, 0.3),
}
"""How often what happens only to a controlled cluster does, from and to, where it does."""


@dataclass
class Control:
    """Rates are events per simulated second, for the whole cluster."""

    shards: int
    spares: int
    sharding: ShardingConfig
    joiners_know_founders: bool
    starts_whole: bool
    """The spares are there from the beginning, and join at once."""
    orders: float = 0.0
    orders_at_once: float = 0.0
    """Two, from two terminals."""
    additions: float = 0.0
    long_absences: float = 0.0
    """Of one node, until it is replaced or later."""
    meta_leaders_lost: float = 0.0
    movers_lost: float = 0.0
    """A node dies that a copy comes to or goes from, or that leads its group."""
    deafness: float = 0.0
    """Some nodes hear nothing of newer maps for a while, and of all else as before."""
    cancellations: float = 0.0
    """A change under way is not wanted any more."""

    @property
    def nodes(self) -> int:
        return FOUNDERS + self.spares


def draw(told: str, time_scale: float) -> Control | None:
    """What the seed that ``told`` describes is to be, None for one that is not controlled."""
    rng = random.Random(f"control {SALT} of {told}")
    if time_scale > TIME_SCALE_MAX or rng.random() >= CONTROLLED_SHARE:
        return None
    control = Control(
        shards=rng.choice((1, 2, 4, 4)),
        spares=rng.choice((1, 2, 2)),
        sharding=ShardingConfig(
            replace_after_s=time_scale * rng.choice((0.0, 1.5, 4.0, 4.0)),
            moves_max=rng.choice((1, 2, 2, 4)),
            balances=rng.random() < 0.9,
        ),
        joiners_know_founders=rng.random() < 0.5,
        starts_whole=rng.random() < 0.2,
    )
    strength = rng.choice((0.5, 1.0)) / time_scale
    for name, (low, high) in RATES.items():
        if name == "additions" or rng.random() < 0.6:
            setattr(control, name, strength * rng.uniform(low, high))
    return control


def configs(control: Control, like: NodeConfig) -> list[NodeConfig]:
    """The configuration of every node: the founders', then the spares'."""
    addresses = [
        NodeAddress(NodeId(f"n{number}"), f"n{number}:1") for number in range(1, control.nodes + 1)
    ]
    cluster = ClusterConfig("sim", tuple(addresses[:FOUNDERS]), shards=control.shards)
    told = cluster if control.joiners_know_founders else replace(cluster, nodes=())
    like = replace(like, sharding=control.sharding)
    founders = [
        replace(like, node_id=address.id, cluster=cluster) for address in addresses[:FOUNDERS]
    ]
    joiners = [
        replace(like, node_id=address.id, cluster=told, joining=address)
        for address in addresses[FOUNDERS:]
    ]
    return founders + joiners
