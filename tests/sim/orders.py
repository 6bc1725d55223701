"""What is ordered of a controlled cluster, and the harm that is done to those who carry it out."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from kvstore.ids import ShardId, shard_of_group
from kvstore.sharding import orders
from sim import control as drawn

if TYPE_CHECKING:
    from collections.abc import Callable

    from kvstore.sharding.known import Known
    from kvstore.sharding.shard_map import Change, ShardMap
    from sim.control import Control
    from sim.nemesis import Nemesis
    from sim.node import SimNode

STEP_S = 0.1

WEIGHTS = (0.5, 1.0, 1.0, 2.0)


class Orders:
    """Comes in turns with the nemesis, and ends with it."""

    def __init__(self, nemesis: Nemesis, control: Control) -> None:
        self.nemesis = nemesis
        self.control = control
        self.world = nemesis.world
        self.rng = nemesis.rng
        self.nodes = nemesis.nodes

    def begin(self) -> None:
        """The founders have been started."""
        if self.control.starts_whole:
            for node in self.nodes:
                self._add(node)
        self.world.after(STEP_S, self._act)

    def _act(self) -> None:
        if self.nemesis.is_over:
            return
        for name in drawn.RATES:
            is_due = self.rng.random() < getattr(self.control, name) * STEP_S
            if is_due and getattr(self, f"_{name}")():
                self.nemesis.count(name)
        self.world.after(STEP_S, self._act)

    # -- nodes come -----------------------------------------------------------------------------

    def _additions(self) -> bool:
        spares = [node for node in self.nodes if node.is_spare]
        if spares:
            self._add(spares[0] if self.rng.random() < 0.7 else spares[-1])
        return bool(spares)

    def _add(self, node: SimNode) -> None:
        if node.is_spare:
            node.is_spare = False
            self.nemesis.start(node)

    # -- orders ---------------------------------------------------------------------------------

    def _orders(self) -> bool:
        return self._order(self._some_order())

    def _orders_at_once(self) -> bool:
        return self._order(self._some_order()) and self._order(self._some_order())

    def _order(self, change: Callable[[ShardMap, Known], ShardMap]) -> bool:
        """Of whoever leads the meta group, as far as it knows itself."""
        leaders = [
            node
            for node in self.nodes
            if any(host.is_meta and host.is_leader for host in node.known_hosts())
        ]
        for node in leaders:
            assert node.moving is not None
            node.later(0.0, partial(node.moving.order, change))
        return bool(leaders)

    def _some_order(self) -> Callable[[ShardMap, Known], ShardMap]:
        name = self.rng.choice(self.nodes).id
        kind = self.rng.choice(
            ("drain", "drain", "remove", "activate", "activate", "weight", "rebalance", "prefer")
        )
        self.world.note("", f"is ordered: {kind} {name}")
        match kind:
            case "drain":
                return partial(orders.drain, name=name)
            case "remove":
                return partial(orders.remove, name=name, is_forced=self.rng.random() < 0.2)
            case "activate":
                return partial(orders.activate, name=name)
            case "weight":
                return partial(orders.weigh, name=name, weight=self.rng.choice(WEIGHTS))
            case "prefer":
                shard = ShardId(self.rng.randrange(self.control.shards))
                return partial(orders.prefer, shard=shard, name=name)
            case _:
                return orders.rebalance

    # -- harm -------------------------------------------------------------------------------------

    def _long_absences(self) -> bool:
        """A node dies, and comes back when it may have been replaced, or not even then."""
        node = self.rng.choice(self.nodes)
        if not node.is_up:
            return False
        patience_s = self.control.sharding.replace_after_s or 4.0
        node.crash("for long", power=self.rng.random() < 0.3)
        node.away_until = self.world.now + patience_s * self.rng.uniform(0.5, 4.0)
        self.world.at(node.away_until, lambda: self.nemesis.start(node))
        return True

    def _meta_leaders_lost(self) -> bool:
        """Whoever steers dies, or is cut off from the others, which choose another."""
        leaders = [
            node
            for node in self.nodes
            if any(host.is_meta and host.is_leader for host in node.known_hosts())
        ]
        return bool(leaders) and self._lose(self.rng.choice(leaders))

    def _movers_lost(self) -> bool:
        """Somebody who takes part in a change that is under way."""
        movers = self._movers()
        return bool(movers) and self._lose(self.rng.choice(movers))

    def _movers(self) -> list[SimNode]:
        """Where a copy comes to or goes from by some change, and who leads its group."""
        change = self._some_change()
        if change is None:
            return []
        ends = {replica.node for replica in (change.add, change.remove) if replica is not None}
        shard = shard_of_group(change.group)
        return [
            node
            for node in self.nodes
            if node.is_up
            and (
                node.id in ends
                or any(host.is_leader and host.shard == shard for host in node.known_hosts())
            )
        ]

    def _some_change(self) -> Change | None:
        newest = self.nodes[0].checks.maps.newest
        return self.rng.choice(newest.changes) if newest is not None and newest.changes else None

    def _deafness(self) -> bool:
        """Few enough for the others to go on with the map without them."""
        deaf_s = self.rng.choice((1.0, 3.0, 8.0))
        most = (len(self.nodes) - 1) // 2
        candidates = self._movers() if self.rng.random() < 0.5 else self.nodes
        deaf = self.rng.sample(candidates, min(most, len(candidates)))
        for node in deaf:
            node.deaf_until = self.world.now + deaf_s
            self.world.note(node.id, f"hears of no newer map for {deaf_s:g} s")
        if deaf and self.rng.random() < 0.5:
            self.world.after(0.6 * deaf_s, lambda: self._let_lead(deaf[0]))
        return bool(deaf)

    def _let_lead(self, node: SimNode) -> None:
        """Somebody who knows only an older map is to lead what it can."""
        if not self.nemesis.is_over:
            self.nemesis.transfer_to(node)

    def _cancellations(self) -> bool:
        """Whoever a copy comes to is to have none, or who it goes from is to keep it."""
        change = self._some_change()
        if change is None:
            return False
        if self.rng.random() < 0.7:
            self._deafness()
        if change.add is not None:
            return self._order(partial(orders.drain, name=change.add.node))
        assert change.remove is not None
        return self._order(partial(orders.activate, name=change.remove.node))

    def _lose(self, node: SimNode) -> bool:
        match self.rng.choice(("crash", "power", "operation", "cut", "pause")):
            case "crash":
                node.crash("in the middle of a change")
                self.nemesis.start_later(node)
            case "power":
                node.crash("in the middle of a change", power=True)
                self.nemesis.start_later(node)
            case "operation":
                self.nemesis.kill_in_operation(node, 30)
            case "cut":
                self.nemesis.isolate(node)
            case _:
                self.nemesis.pause(node)
        return True
