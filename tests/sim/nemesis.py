"""Who does harm: each fault at the rate that the seed drew."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from kvstore.errors import KVError
from kvstore.ids import replica_id
from kvstore.storage.segment_files import SEGMENT_NAME
from sim.disk import Fault
from sim.swarm import RATES
from sim.wholeness import Wholeness

if TYPE_CHECKING:
    from collections.abc import Callable

    from kvstore.server.shard_host import ShardHost
    from sim.network import Link, Network
    from sim.node import SimNode
    from sim.swarm import Swarm

STEP_S = 0.05


class Nemesis:
    """Invariant: in every group a majority of the voters has its data at any time."""

    def __init__(self, network: Network, swarm: Swarm) -> None:
        self.network = network
        self.world = network.world
        self.swarm = swarm
        self.rng = random.Random(self.world.rng.random())
        self.nodes = list(network.nodes.values())
        self.wholeness = Wholeness(self.nodes, swarm)
        self.is_over = False
        self.done: dict[str, int] = {}
        self._faults: list[tuple[str, float, Callable[[SimNode], bool]]] = [
            (name, getattr(swarm, name) * STEP_S, getattr(self, f"_{name}"))
            for name in RATES
            if getattr(swarm, name)
        ]

    def act(self) -> None:
        """A short while has passed: maybe something happens."""
        if self.is_over:
            return
        for name, share, fault in self._faults:
            if self.rng.random() < share and fault(self.rng.choice(self.nodes)):
                self.count(name)
        self.world.after(STEP_S, self.act)

    def count(self, name: str) -> None:
        """A fault bit. Those that show later whether they did count themselves."""
        self.done[name] = self.done.get(name, 0) + 1

    def _soon(self, *seconds: float) -> float:
        return self.rng.choice(seconds) * self.swarm.time_scale

    # -- processes ----------------------------------------------------------------------------

    def _kills(self, node: SimNode) -> bool:
        was_up = node.is_up
        node.crash("by kill -9")
        self.start_later(node)
        return was_up

    def _graceful_stops(self, node: SimNode) -> bool:
        if not node.is_up:
            return False

        def stop() -> None:
            if not self.is_over:  # else a pause has put it off until all was healed
                node.stop()

        node.later(0.0, stop)
        self._watch_over(node)
        return True

    def _power_cuts(self, node: SimNode) -> bool:
        """A dead process's machine may lose its power too."""
        was_up = node.is_up
        self._cut_power(node)
        return was_up

    def _cut_power(self, node: SimNode) -> None:
        if not self.is_over:
            node.crash("by a power cut", power=True)
            self.start_later(node)

    def _cluster_power_cuts(self, _: SimNode) -> bool:
        for node in self.nodes:
            node.crash("in a power cut of all", power=True)
            self.start_later(node)
        return True

    def _crash_points(self, node: SimNode) -> bool:
        if not node.is_up:
            return False
        self.kill_in_operation(node, self.rng.choice((12, 60)))
        return True

    def kill_in_operation(self, node: SimNode, operations_max: int) -> None:
        """It dies within so many operations, and is started again."""
        self._arm(node, operations_max)
        self._watch_over(node)

    def _arm(self, node: SimNode, operations_max: int) -> None:
        """It dies within so many operations."""
        node.disk.crash_in = self.rng.randint(0, operations_max)
        node.disk.crash_takes_power = self.rng.random() < 0.5

    def _crash_loops(self, node: SimNode) -> bool:
        """It dies in the middle of its recovery, several times."""
        node.crash("to begin a row of crashes", power=self.rng.random() < 0.5)
        for number in range(1, 4):
            self.world.after(0.05 * number, lambda: self._start_to_die(node))
        self.world.after(0.3, lambda: self.start(node))
        return True

    def _start_to_die(self, node: SimNode) -> None:
        if self.is_over:
            return
        self._arm(node, 15)
        self.start(node)

    def start_later(self, node: SimNode) -> None:
        self.world.after(self._soon(0.01, 0.5, 3.0), lambda: self.start(node))

    def start(self, node: SimNode) -> None:
        """Unless it is up, must stay away, or all is over."""
        if node.is_spare or node.is_refused or self.world.now < node.away_until:
            return
        if not node.is_up and not self.is_over:
            node.start()
            self._watch_over(node)

    def _watch_over(self, node: SimNode) -> None:
        """Whoever dies by itself is started again, as a service manager does."""

        def look() -> None:
            if not node.is_up:
                if self.rng.random() < 0.3 and self.swarm.crash_points and not self.is_over:
                    self._arm(node, 15)  # Once more, in the middle of its recovery.
                self.start(node)
            elif not self.is_over and (node.disk.crash_in is not None or node.is_stopping):
                self.world.after(0.5, look)

        self.world.after(0.5, look)

    def _pauses(self, node: SimNode) -> bool:
        self.pause(node)
        return node.is_up

    def pause(self, node: SimNode) -> None:
        """It stands still. Where no lease rests on it, its machine may sleep, clock and all."""
        pause_s = self._soon(0.1, 0.7, 3.0)
        if not self.swarm.raft.lease_reads and self.rng.random() < 0.5:
            node.fall_asleep()
        node.stand_still(pause_s)
        self.world.note(node.id, f"stands still until {node.paused_until:.3f}")

    # -- network ------------------------------------------------------------------------------

    def _partitions(self, _: SimNode) -> bool:
        names = [node.id for node in self.nodes]
        side = {name for name in names if self.rng.random() < 0.5}
        links: set[Link] = {(a, b) for a in side for b in names if b not in side}
        kind = self.rng.choice(("both", "one way", "bridge", "bridge"))
        if kind == "bridge" and len(names) > 2:
            a, b = self.rng.sample(names, 2)
            links = {(a, b)}
        if kind != "one way":
            links |= {(b, a) for a, b in links}
        self._cut(links, kind)
        return bool(links)

    def _isolated_leaders(self, _: SimNode) -> bool:
        """A leader is cut off from some or all; one who still hears it is started anew.

        What the leader has promised, and what it was promised, must outlast that.
        """
        led = [(leader, h) for leader in self.nodes for h in leader.known_hosts() if h.is_leader]
        if not led or len(self.nodes) < 3:
            return False
        self.isolate(self.rng.choice(led)[0])
        return True

    def isolate(self, leader: SimNode) -> None:
        """It loses some or all of the others for a while."""
        others = [other for other in self.nodes if other is not leader]
        lost = self.rng.sample(others, self.rng.randint(1, len(others)))
        links: set[Link] = {(leader.id, other.id) for other in lost}
        if self.rng.random() < 0.7:
            links |= {(b, a) for a, b in links}
        self._cut(links, "leader")
        followers = [other for other in others if other not in lost]
        if followers:
            self.world.after(self._soon(0.0, 0.5, 1.0), lambda: self._restart(followers[0]))

    def _restart(self, node: SimNode) -> None:
        if not self.is_over:
            node.crash("at a bad moment")
            self.world.after(0.01, lambda: self.start(node))

    def _cut(self, links: set[Link], kind: str) -> None:
        """Cut for a while; what is sent meanwhile is lost, or held until then."""
        is_holding = self.rng.random() < 0.3
        held = ", holding" if is_holding else ""
        told = " ".join(f"{a}>{b}" for a, b in sorted(links))
        self.world.note("", f"cut ({kind}{held}): {told}")
        self.network.cut(links, is_holding=is_holding)

        def mend() -> None:
            if not self.is_over:
                self.network.mend(sorted(links))

        self.world.after(self._soon(0.3, 1.5, 4.0), mend)

    def install_begins(self, node: SimNode) -> None:
        """A node is about to put a snapshot in force: a bad moment for much."""
        if self.is_over or self.rng.random() >= self.swarm.install_faults:
            return
        self.count("install_faults")
        match self.rng.choice(("crash", "crash", "full disk", "transfer")):
            case "crash":
                self._arm(node, 8)
                self._watch_over(node)
            case "full disk":
                self._full_disks(node)
            case _:
                self._transfers(node)

    # -- disks --------------------------------------------------------------------------------

    def _full_disks(self, node: SimNode) -> bool:
        node.disk.is_full = True
        refusals = node.disk.refusals
        self.world.note(node.id, "has a full disk")

        def free() -> None:
            if node.disk.refusals > refusals:
                self.count("full_disks")
            node.disk.is_full = False
            self.world.note(node.id, "has room on its disk")
            self.start(node)

        self.world.after(self._soon(0.5, 3.0), free)
        return False

    def _failed_syncs(self, node: SimNode) -> bool:
        return self._fail(node, Fault.SYNC, "failed_syncs")

    def _failed_operations(self, node: SimNode) -> bool:
        kinds = (Fault.WRITE, Fault.METADATA, Fault.DIRECTORY_SYNC)
        return self._fail(node, self.rng.choice(kinds), "failed_operations")

    def _fail(self, node: SimNode, fault: Fault, name: str) -> bool:
        """The next operation of a kind fails; the power may go with the process, or soon after."""
        node.disk.fault = fault

        def look() -> None:
            if node.disk.fault is None:
                self.count(name)
            node.disk.fault = None
            if not node.is_up and self.rng.random() < 0.5:
                node.disk.lose_power()
            elif not node.is_up:
                self.world.after(self.rng.random(), lambda: self._cut_power(node))
            self.start(node)

        self.world.after(1.0, look)
        return False

    def _flipped_bits(self, node: SimNode) -> bool:
        """A bit of a node's log is flipped; it refuses to start, and is repaired after a while."""
        if not self.wholeness.may_lose(node):
            return False
        wal = node.disk.path(f"/{node.id}/wal")
        files = [path for path in wal.iterdir() if SEGMENT_NAME.fullmatch(path.name)]
        if not files:
            return False
        node.crash("to find a bit of its log flipped")
        path = self.rng.choice(files)
        used = len(path.read_bytes().rstrip(b"\0"))
        offset, bit = self.rng.randrange(used), self.rng.randrange(8)
        node.may_be_damaged = True
        node.disk.flip_a_bit(path, offset, bit)
        self.world.note(node.id, f"bit {bit} of {path} at {offset} is flipped")
        self.start_later(node)
        self.world.after(self._soon(4.0, 8.0), lambda: self._repair(node))
        return True

    def _repair(self, node: SimNode) -> None:
        if node.is_refused and not self.is_over:
            node.repair()
            self.start(node)

    def _flushes(self, node: SimNode) -> bool:
        if node.is_up:
            node.later(0.0, node.flush)
        return node.is_up

    # -- clocks and the protocol itself ---------------------------------------------------------

    def _clock_jumps(self, node: SimNode) -> bool:
        node.wall_ahead_ms = self.rng.choice((0.0, -5000.0, -300.0, 300.0, 500.0, 5000.0))
        self.world.note(node.id, f"its clock is now {node.wall_ahead_ms:g} ms ahead")
        return node.is_up

    def _membership_changes(self, _: SimNode) -> bool:
        """Voters and learners change at will, as long as nobody has lost its data."""
        founding = self.nodes[0].founding
        assert founding is not None
        everybody = [replica.id for replica in founding.replicas[0]]
        voters = self.rng.sample(
            everybody, self.rng.randint(min(2, len(everybody)), len(everybody))
        )
        learners = [r for r in everybody if r not in voters and self.rng.random() < 0.5]

        def change(host: ShardHost, now: float) -> None:
            if all(map(self.wholeness.is_whole, (*everybody, *host.core.config.voters))):
                host.core.propose_config(voters, learners, now)
                self.count("membership_changes")
                if self.rng.random() < 0.2:
                    self._kill_soon(host)

        for _times in range(self.rng.choice((1, 1, 3))):
            self._as_leader(change)
        return False

    def _kill_soon(self, host: ShardHost) -> None:
        """A leader dies with a change under way: whoever follows it has to end that."""
        node = next(node for node in self.nodes if host in node.known_hosts())
        self.world.after(self.rng.random() * 0.05, lambda: self._restart(node))

    def _transfers(self, node: SimNode) -> bool:
        self.transfer_to(node)
        return False

    def transfer_to(self, node: SimNode) -> None:
        """Whoever leads is to hand over to ``node``, if it has a vote."""
        replica = replica_id(1 + self.nodes.index(node), node.data_life)

        def transfer(host: ShardHost, now: float) -> None:
            voters = {host.replicas.get(voter): voter for voter in host.core.config.voters}
            is_fixed = self.swarm.control is None
            to = replica if is_fixed else voters.get(node.id, replica)
            host.core.transfer_leadership(to, now)
            self.count("transfers")

        self._as_leader(transfer)

    def _spurious_suspicions(self, node: SimNode) -> bool:
        about = self.rng.choice(self.nodes)
        if not node.is_up or about is node:
            return False
        driver = node.driver
        alarm = self.rng.choice((node.peer_gone, node.peer_connected, driver.messages_dropped))

        def campaign() -> None:
            for group in driver.hosts:
                driver.campaign_if_leaderless(group)

        if self.rng.random() < 0.3:
            node.later(0.0, campaign)
        else:
            node.later(0.0, lambda: alarm(about.id))
        return True

    def _as_leader(self, ask: Callable[[ShardHost, float], None]) -> None:
        """Ask every leader there is; one that may not now says so."""
        for node in self.nodes:
            for host in node.known_hosts():
                if host.is_leader:
                    node.later(0.0, _asking(node, host, ask))


def _asking(
    node: SimNode, host: ShardHost, ask: Callable[[ShardHost, float], None]
) -> Callable[[], None]:
    def run() -> None:
        try:
            ask(host, node.clock())
        except KVError as error:
            node.world.note(node.id, f"declines: {error}")
        else:
            node.driver.wake(host)

    return run
