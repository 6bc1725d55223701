"""The end of all harm, of a part of it, and what stays broken on purpose."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from sim.nemesis import Nemesis
    from sim.node import SimNode


class Healer:
    """Ends what a nemesis began."""

    def __init__(self, nemesis: Nemesis) -> None:
        self.nemesis = nemesis
        self.network = nemesis.network
        self.world = nemesis.world
        self.nodes = nemesis.nodes
        self.rng = nemesis.rng

    def heal(self, outsiders: Collection[SimNode] = ()) -> None:
        """No more harm: cables are plugged in, disks have room, whoever is dead is started.

        Args:
            outsiders: Who stays as it is, dead or alive.
        """
        self.nemesis.is_over = True
        whole = [node for node in self.nodes if node not in outsiders and not node.is_spare]
        self.world.note("", f"{' '.join(node.id for node in whole)} are healed")
        self.network.heal()
        self.network.conditions = type(self.network.conditions)()
        for node in whole:
            node.disk.is_full = False
            node.disk.fault = node.disk.crash_in = None
            node.deaf_until = 0.0
            node.go_on()
            if node.is_stopping:
                node.crash("in the middle of stopping")
            if not node.is_up and not node.is_refused:
                node.start()
            if node.is_refused:
                node.repair()
                node.start()
        for node in whole:
            for other in whole:
                if other is not node and other.id not in node.connected_since:
                    node.later(0.0, _connecting(node, other))

    def cut_off(self, outsiders: Collection[SimNode]) -> None:
        """One of the ways in which a few nodes are no part of the cluster any more."""
        inside = [node for node in self.nodes if node not in outsiders]
        inwards = [(a.id, b.id) for a in outsiders for b in inside]
        outwards = [(b, a) for a, b in inwards]
        kind = self.rng.choice(("dead", "cut off", "deaf", "mute"))
        self.world.note("", f"{' '.join(node.id for node in outsiders)} are {kind}")
        if kind == "dead":
            for node in outsiders:
                node.crash("to stay so")
        links = {"dead": [], "cut off": inwards + outwards, "deaf": outwards, "mute": inwards}[kind]
        self.network.cut(links, is_holding=False)

    def cut_one_link(self) -> None:
        """Two nodes cannot talk any more; whoever else there is reaches both."""
        a, b = self.rng.sample([node.id for node in self.nodes], 2)
        self.world.note("", f"{a} and {b} are cut off from each other alone")
        self.network.cut([(a, b), (b, a)], is_holding=False)


def _connecting(node: SimNode, other: SimNode) -> Callable[[], None]:
    return lambda: node.peer_connected(other.id)
