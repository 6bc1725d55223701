"""One seed from begin to end: first disturbed, then healed; what must hold at the end."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from zlib import crc32

from histories.checker import check
from histories.model import Get, Put
from kvstore.kv.engine import shard_range
from kvstore.raft.confchange import members
from kvstore.sharding.shard_map import bootstrap
from sim.checks import Checks
from sim.clients import ClientHistory, callers
from sim.healing import Healer
from sim.member import agree
from sim.nemesis import Nemesis
from sim.network import Network
from sim.node import SimNode
from sim.orders import Orders
from sim.settled import what_is_left
from sim.swarm import Swarm, draw
from sim.world import Violation, World, place_of

if TYPE_CHECKING:
    from kvstore.config import NodeConfig
    from kvstore.ids import GroupId
    from kvstore.server.shard_host import ShardHost
    from kvstore.sharding.shard_map import ShardMap

CALM_S = 8.0
"""Time for elections, retries and catching up before progress is demanded."""
PROGRESS_S = 15.0
"""The most that any single step of progress may take after that."""
SETTLE_S = 120.0
"""The most that all changes of the shard map together may take."""
QUIET_S = 5.0
REPEATED_EVERY = 64
REPEAT_S_MAX = 600.0
HASH_SEEDS = 1000
"""The processes that repeat seeds order their sets in so many ways."""
QUIET_TRIES = 4
"""Leaders may still be handed to their preferred nodes in the first of these."""


@dataclass
class Result:
    """What one seed came to."""

    seed: int
    failure: str = ""
    trace: list[str] = field(default_factory=list)
    swarm: Swarm | None = None
    seconds: float = 0.0
    """Of simulated time."""
    cpu_s: float = 0.0
    """What that took of one core; differs from run to run."""
    events: int = 0
    calls: int = 0
    retries: int = 0
    elections: int = 0
    installs: int = 0
    entries: int = 0
    faults: dict[str, int] = field(default_factory=dict)
    digest: int = 0
    """Of when each event was run and of all that the clients saw: the same for each run."""


class Run:
    """A cluster, its clients and its enemy."""

    def __init__(self, seed: int, *, tracing: bool = False) -> None:
        self.world = World(seed, tracing=tracing)
        self.swarm = draw(self.world.rng)
        self.network = Network(self.world, self.swarm.conditions)
        self.checks = Checks()
        self.history = ClientHistory()
        self.founding = bootstrap(self.swarm.configs()[0].cluster)
        for config in self.swarm.configs():
            node = SimNode(config, self._founding_of(config), self.network, self.checks, self.swarm)
            node.is_spare = config.joining is not None
            self.network.nodes[node.id] = node
        self.checks.founded(self.founding)
        self.nodes = list(self.network.nodes.values())
        self.clients = [
            client
            for number in range(1, self.swarm.clients + 1)
            for client in callers(f"c{number}", self.network, self.history, self.swarm)
        ]
        self.nemesis = Nemesis(self.network, self.swarm)
        self.orders: Orders | None = None
        if self.swarm.control is not None:
            self.orders = Orders(self.nemesis, self.swarm.control)
        self.healer = Healer(self.nemesis)
        for node in self.nodes:
            node.on_install = self.nemesis.install_begins

    @staticmethod
    def _founding_of(config: NodeConfig) -> ShardMap | None:
        """The first map, as far as that node was told."""
        return bootstrap(config.cluster) if config.cluster.nodes else None

    def disturb(self) -> None:
        """The safety phase: whatever happens, nothing that is promised is broken."""
        self.world.note("", f"{self.swarm} {self.swarm.control or ''}")
        for node in self.nodes:
            if not node.is_spare:
                node.start()
        if self.orders is not None:
            self.orders.begin()
        for client in self.clients:
            client.think()
        self.world.after(1.0, self.nemesis.act)
        self.world.run(self.swarm.seconds)

    def heal(self) -> None:
        """The liveness phase: every client is served, every replica catches up, all is quiet."""
        time_scale = self.swarm.time_scale
        if self._heal_a_core():
            self._serve_everybody()
        self.healer.heal()
        self.world.run(CALM_S * time_scale)
        for client in self.clients:
            client.is_stopped = True
        self.world.run_until(
            lambda: all(client.call is None for client in self.clients),
            10.0 * time_scale,
            "calls end",
        )
        self._serve_everybody()
        if self.orders is not None:
            self._demand_order()
        self.world.run_until(self._are_equal, PROGRESS_S * time_scale, "all members hold the same")
        if self.nemesis.done.get("flipped_bits"):
            what = "everybody votes again, the repaired too"
            self.world.run_until(
                lambda: self.nemesis.wholeness.is_restored() and self._are_equal(),
                PROGRESS_S * time_scale,
                what,
            )
        if self.swarm.membership:
            what = "all members have all for alive"
            self.world.run_until(lambda: agree(self._members()), PROGRESS_S * time_scale, what)
        self._demand_quiet()

    def _demand_order(self) -> None:
        """Every change ends, and all is held where the map says and nowhere else."""
        self.world.run_until(
            lambda: not what_is_left(self.checks, self._members()),
            SETTLE_S * self.swarm.time_scale,
            lambda: f"all is where it should be: {what_is_left(self.checks, self._members())}",
        )

    def _members(self) -> list[SimNode]:
        """The nodes that are part of the cluster, and were not removed from it."""
        newest = self.checks.maps.newest
        removed = () if newest is None else newest.removed
        return [n for n in self.nodes if not n.is_spare and n.id not in removed]

    def _heal_a_core(self) -> bool:
        """In some seeds a majority must do before the rest is healed."""
        swarm, rng = self.swarm, self.nemesis.rng
        if not swarm.heals_a_core_first or swarm.nodes < 3:
            return False
        if swarm.membership_changes or swarm.flipped_bits:
            return False  # who is a voter, and whole, is not for us to say
        if rng.random() < 0.3:
            self.healer.heal()
            self.healer.cut_one_link()
        else:
            outsiders = rng.sample(self.nodes, rng.randint(1, (swarm.nodes - 1) // 2))
            self.healer.heal(outsiders)
            self.healer.cut_off(outsiders)
        self.world.run(CALM_S * swarm.time_scale)
        return True

    def _demand_quiet(self) -> None:
        """Where nothing happens, nobody stands for election and no leader changes."""
        time_scale = self.swarm.time_scale

        def leaders() -> list[tuple[object, ...]]:
            hosts = [host for node in self._members() for host in node.driver.hosts.values()]
            version = self.checks.maps.newest.version if self.checks.maps.newest else 0
            return [(version,), *((host.core.term, host.core.leader) for host in hosts)]

        for _ in range(QUIET_TRIES):
            before = leaders()
            self.world.run(QUIET_S * time_scale)
            if leaders() == before:
                return
        raise Violation(f"elections go on and on in peace: {before}, then {leaders()}")

    def _serve_everybody(self) -> None:
        """A write and a read of every key end well."""
        keys = [b"k%d" % number for number in range(self.swarm.keys)] + [b"count0", b"count1"]
        for key in keys:
            self._ask_until_answered(key, Get())
            if not key.startswith(b"count"):
                self._ask_until_answered(key, Put(b"last %d " % self.world.events_run + key))
                self._ask_until_answered(key, Get())

    def _ask_until_answered(self, key: bytes, action: Get | Put) -> None:
        """From a client of its own for each, so that nobody else's call stands in for it."""
        (client, *_) = callers(f"last-{key.decode()}", self.network, self.history, self.swarm)
        client.is_stopped = True

        def is_answered() -> bool:
            if client.call is None and not client.answered:
                client.ask([(key, action)])
            return client.answered > 0

        self.world.run_until(
            is_answered, PROGRESS_S * self.swarm.time_scale, f"{action} of {key!r} is answered"
        )

    def _are_equal(self) -> bool:
        """Whether every member of every group is there, and has applied all its leader has."""
        return all(node.is_up for node in self._members()) and all(
            self._is_equal(group) for group in self._groups()
        )

    def _groups(self) -> list[GroupId]:
        if self.swarm.is_controlled:
            return list(self.founding.groups())
        return list(next(node for node in self.nodes if node.is_up).driver.hosts)

    def _is_equal(self, group: GroupId) -> bool:
        hosts = self._hosts(group)
        leader = next((host for _, host in hosts if host.is_leader), None)
        if leader is None:
            return False
        config = leader.core.config
        if config.voters_outgoing:
            return False  # A change was begun and is not ended.
        following = set(members(config))
        if not self.swarm.is_controlled:
            # Only the shard map's leader takes in a learner again whose node has lost its data.
            following -= {r for r in config.learners if not self.nemesis.wholeness.is_whole(r)}
        if not following <= {host.core.replica for _, host in hosts}:
            return False
        prefix = shard_range(leader.shard)[0][:2]
        states = {
            (host.core.applied_index, node.engine.fingerprint(prefix))
            for node, host in hosts
            if host.core.replica in following
        }
        return len(states) == 1 and leader.core.applied_index == leader.core.last_index

    def _hosts(self, group: GroupId) -> list[tuple[SimNode, ShardHost]]:
        up = [node for node in self._members() if node.is_up]
        return [(node, node.driver.hosts[group]) for node in up if group in node.driver.hosts]

    def judge(self) -> None:
        """What the clients saw, against the laws.

        Raises:
            Violation: a history is not linearizable, or an increment is lost or doubled.
        """
        for key in (b"count0", b"count1"):
            last = next(
                operation.result
                for operation in reversed(self.history.operations)
                if operation.key == key and isinstance(operation.action, Get)
            )
            count = int(last or 0)
            sure = self.history.acknowledged[key]
            if not sure <= count <= sure + self.history.uncertain[key]:
                raise Violation(
                    f"{key!r} is {count} after {sure} acknowledged increments and "
                    f"{self.history.uncertain[key]} of unknown outcome"
                )
        verdict = check(self.history.operations)
        if not verdict.ok:
            raise Violation(f"{verdict.outcome.name.lower()}: {verdict.explanation}")

    def result(self, seed: int, failure: str) -> Result:
        return Result(
            seed=seed,
            failure=failure,
            trace=self.world.trace,
            swarm=self.swarm,
            seconds=self.world.now,
            events=self.world.events_run,
            calls=self.history.calls_answered,
            retries=self.history.retries,
            elections=self.checks.elections,
            installs=self.checks.installs,
            entries=self.checks.entries_committed(),
            faults=self._faults(),
            digest=crc32(repr(self.history.operations).encode(), self.world.digest),
        )

    def _faults(self) -> dict[str, int]:
        """How often each bit, and what came of some."""
        counted = {
            "frames_lost": self.network.frames_lost,
            "unsynced_writes_lost": sum(node.disk.writes_lost for node in self.nodes),
        }
        return self.nemesis.done | {name: number for name, number in counted.items() if number}


def run_seed_twice_at_times(seed: int) -> Result:
    """As :func:`run_seed`; of some seeds it is checked that they repeat themselves."""
    began = time.process_time()
    result = run_seed(seed)
    result.cpu_s = time.process_time() - began
    if seed % REPEATED_EVERY == 0 and not result.failure:
        again = digest_elsewhere(seed, str(1 + seed % HASH_SEEDS))
        if again != str(result.digest):
            result.failure = f"does not repeat itself: {again[-500:]}, not {result.digest}"
    return result


def digest_elsewhere(seed: int, hash_seed: str) -> str:
    """The digest of ``seed`` run by a process that hashes otherwise, or how that process failed."""
    program = (
        "import logging; logging.disable(); "
        f"from sim.run import run_seed; print(run_seed({seed}).digest)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": hash_seed},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=REPEAT_S_MAX,
        check=False,
    )
    return done.stdout.strip()


def run_seed(seed: int, *, tracing: bool = False) -> Result:
    """Run one seed; whatever goes wrong is in :attr:`Result.failure`."""
    run = Run(seed, tracing=tracing)
    failure = ""
    try:
        run.disturb()
        run.heal()
        run.judge()
    except Violation as violation:
        failure = str(violation)
    except Exception as error:  # noqa: BLE001  a mutant may fail in any way, in any place
        failure = f"{type(error).__name__}: {error}{place_of(error)}"
    return run.result(seed, failure)
