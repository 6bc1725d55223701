"""Who does harm: each fault at the rate that the seed drew, and at the end everything healed."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from kvstore.errors import KVError
from kvstore.ids import replica_id
from kvstore.raft.confchange import keeps_vote
from kvstore.storage.segment_files import SEGMENT_NAME
from sim.swarm import RATES

if TYPE_CHECKING:
    from collections.abc import Callable

    from kvstore.server.shard_host import ShardHost
    from sim.network import Network
    from sim.node import SimNode
    from sim.swarm import Swarm

STEP_S = 0.05


class Nemesis:
    """Invariant: at most a minority of the nodes is without its data at any time."""

    def __init__(self, network: Network, swarm: Swarm) -> None:
        self.network = network
        self.world = network.world
        self.swarm = swarm
        self.rng = random.Random(self.world.rng.random())
        self.nodes = list(network.nodes.values())
        self.is_over = False
        self.done: dict[str, int] = {}
        self._faults: list[tuple[str, float, Callable[[SimNode], None]]] = [
            (name, getattr(swarm, name) * STEP_S, getattr(self, f"_{name}"))
            for name in RATES
            if getattr(swarm, name)
        ]

    def act(self) -> None:
        """A short while has passed: maybe something happens."""
        if self.is_over:
            return
        for name, share, fault in self._faults:
            if self.rng.random() < share:
                self.done[name] = self.done.get(name, 0) + 1
                fault(self.rng.choice(self.nodes))
        self.world.after(STEP_S, self.act)

    def heal(self) -> None:
        """No more harm: cables are plugged in, disks have room, whoever is dead is started."""
        self.is_over = True
        self.world.note("", "all is healed")
        self.network.heal()
        self.network.weather = type(self.network.weather)()
        for node in self.nodes:
            node.disk.is_full = node.disk.sync_fails = False
            node.disk.crash_in = None
            node.paused_until = 0.0
            if not node.is_up and not node.is_refused:
                node.start()
            if node.is_refused:
                node.repair()
                node.start()
        for node in self.nodes:
            self.network.news_of(node, is_dead=not node.is_up, share=1.0)

    def _soon(self, *seconds: float) -> float:
        return self.rng.choice(seconds) * self.swarm.pace

    # -- processes ----------------------------------------------------------------------------

    def _kills(self, node: SimNode) -> None:
        node.crash("by kill -9")
        self._start_later(node)

    def _power_cuts(self, node: SimNode) -> None:
        node.crash("by a power cut", power=True)
        self._start_later(node)

    def _blackouts(self, _: SimNode) -> None:
        for node in self.nodes:
            node.crash("in a blackout", power=True)
            self._start_later(node)

    def _crash_points(self, node: SimNode) -> None:
        node.disk.crash_in = self.rng.randint(0, 12)
        self._watch_over(node)

    def _crash_loops(self, node: SimNode) -> None:
        """It dies in the middle of its recovery, several times."""
        node.crash("to begin a row of crashes", power=self.rng.random() < 0.5)
        for number in range(1, 4):
            self.world.after(0.05 * number, lambda: self._start_to_die(node))
        self.world.after(0.3, lambda: self._start(node))

    def _start_to_die(self, node: SimNode) -> None:
        if self.is_over:
            return
        node.disk.crash_in = self.rng.randint(0, 15)
        self._start(node)

    def _start_later(self, node: SimNode) -> None:
        self.world.after(self._soon(0.01, 0.5, 3.0), lambda: self._start(node))

    def _start(self, node: SimNode) -> None:
        if not node.is_up and not node.is_refused and not self.is_over:
            node.start()
            self._watch_over(node)

    def _watch_over(self, node: SimNode) -> None:
        """Whoever dies by itself is started again, as a service manager does."""

        def look() -> None:
            if not node.is_up:
                self._start(node)
            elif node.disk.crash_in is not None and not self.is_over:
                self.world.after(0.5, look)

        self.world.after(0.5, look)

    def _pauses(self, node: SimNode) -> None:
        node.paused_until = self.world.now + self._soon(0.1, 0.7, 3.0)
        self.world.note(node.id, f"stands still until {node.paused_until:.3f}")

    # -- network ------------------------------------------------------------------------------

    def _partitions(self, _: SimNode) -> None:
        names = [node.id for node in self.nodes]
        side = {name for name in names if self.rng.random() < 0.5}
        links = {(a, b) for a in side for b in names if b not in side}
        kind = self.rng.choice(("both", "one way", "bridge", "bridge"))
        if kind == "bridge" and len(names) > 2:
            a, b = self.rng.sample(names, 2)
            links = {(a, b)}
        if kind != "one way":
            links |= {(b, a) for a, b in links}
        self.world.note("", f"cut ({kind}): {' '.join(f'{a}>{b}' for a, b in sorted(links))}")
        self.network.cut(links)
        self.world.after(self._soon(0.3, 1.5, 4.0), self.network.heal)

    # -- disks --------------------------------------------------------------------------------

    def _full_disks(self, node: SimNode) -> None:
        node.disk.is_full = True
        self.world.note(node.id, "has a full disk")

        def free() -> None:
            node.disk.is_full = False
            self.world.note(node.id, "has room on its disk")
            self._start(node)

        self.world.after(self._soon(0.5, 3.0), free)

    def _failed_syncs(self, node: SimNode) -> None:
        node.disk.sync_fails = True

        def look() -> None:
            node.disk.sync_fails = False
            if not node.is_up and self.rng.random() < 0.5:
                node.disk.lose_power()
            self._start(node)

        self.world.after(1.0, look)

    def _flipped_bits(self, node: SimNode) -> None:
        """A bit of a node's log is flipped; it refuses to start, and is repaired after a while.

        A majority must be whole: voters of every group, in their present life.
        """
        broken = [other for other in self.nodes if other is node or not is_whole(other)]
        if len(broken) > (len(self.nodes) - 1) // 2:
            return
        wal = node.disk.path(f"/{node.id}/wal")
        files = [path for path in wal.iterdir() if SEGMENT_NAME.fullmatch(path.name)]
        if not files:
            return
        node.crash("to find a bit of its log flipped")
        path = self.rng.choice(files)
        used = len(path.read_bytes().rstrip(b"\0"))
        offset, bit = self.rng.randrange(used), self.rng.randrange(8)
        node.may_be_damaged = True
        node.disk.flip_a_bit(path, offset, bit)
        self.world.note(node.id, f"bit {bit} of {path} at {offset} is flipped")
        self._start_later(node)
        self.world.after(self._soon(4.0, 8.0), lambda: self._repair(node))

    def _repair(self, node: SimNode) -> None:
        if node.is_refused and not self.is_over:
            node.repair()
            self._start(node)

    def _flushes(self, node: SimNode) -> None:
        if node.is_up:
            node.later(0.0, node.flush)

    # -- clocks and the protocol itself ---------------------------------------------------------

    def _clock_jumps(self, node: SimNode) -> None:
        node.wall_ahead_ms = self.rng.choice((0.0, -5000.0, -300.0, 300.0, 500.0, 5000.0))
        self.world.note(node.id, f"its clock is now {node.wall_ahead_ms:g} ms ahead")

    def _membership_changes(self, _: SimNode) -> None:
        everybody = [replica.id for replica in self.nodes[0].shard_map.replicas[0]]
        voters = self.rng.sample(
            everybody, self.rng.randint(min(2, len(everybody)), len(everybody))
        )
        learners = [r for r in everybody if r not in voters and self.rng.random() < 0.5]
        self._as_leader(lambda host, now: host.core.propose_config(voters, learners, now))

    def _transfers(self, node: SimNode) -> None:
        replica = replica_id(1 + self.nodes.index(node), node.data_life)
        self._as_leader(lambda host, now: host.core.transfer_leadership(replica, now))

    def _false_alarms(self, node: SimNode) -> None:
        about = self.rng.choice(self.nodes)
        if not node.is_up or about is node:
            return
        driver = node.driver
        alarm = self.rng.choice((driver.peer_gone, driver.peer_connected, driver.messages_dropped))

        def campaign() -> None:
            for group in driver.hosts:
                driver.campaign_if_leaderless(group)

        if self.rng.random() < 0.3:
            node.later(0.0, campaign)
        else:
            node.later(0.0, lambda: alarm(about.id))

    def _as_leader(self, ask: Callable[[ShardHost, float], object]) -> None:
        """Ask every leader there is; one that may not now says so."""
        for node in self.nodes:
            if not node.is_up:
                continue
            for host in node.driver.hosts.values():
                if host.is_leader:
                    node.later(0.0, _asking(node, host, ask))


def is_whole(node: SimNode) -> bool:
    """Whether ``node`` votes in all groups, in this life of its data, by what leaders know."""
    if node.may_be_damaged or node.is_refused:
        return False
    number = int(node.id.removeprefix("n"))
    replica = replica_id(number, node.data_life)
    hosts = [h for other in node.network.nodes.values() for h in other.known_hosts()]
    led = [host for host in hosts if host.is_leader]
    committed = {host.shard: host.core.committed_config for host in led}
    return len(committed) == node.shard_map.shards and all(
        keeps_vote(config, replica) for config in committed.values()
    )


def _asking(
    node: SimNode, host: ShardHost, ask: Callable[[ShardHost, float], object]
) -> Callable[[], None]:
    def run() -> None:
        try:
            ask(host, node.clock())
        except KVError as error:
            node.world.note(node.id, f"declines: {error}")
        else:
            node.driver.wake(host)

    return run
