"""One seed from begin to end: a storm, then calm; what must hold at each step and at the end."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from histories.checker import check
from histories.model import Get, Put
from kvstore.kv.engine import shard_range
from kvstore.raft.confchange import members
from kvstore.sharding.shard_map import bootstrap
from sim.checks import Checks
from sim.clients import Books, SimClient
from sim.nemesis import Nemesis, is_whole
from sim.network import Network
from sim.node import SimNode
from sim.swarm import Swarm, draw
from sim.world import Violation, World

if TYPE_CHECKING:
    from kvstore.ids import GroupId
    from kvstore.server.shard_host import ShardHost

CALM_S = 8.0
"""Time for elections, retries and catching up before progress is demanded."""
PROGRESS_S = 60.0


@dataclass
class Result:
    """What one seed came to."""

    seed: int
    failure: str = ""
    trace: list[str] = field(default_factory=list)
    swarm: Swarm | None = None
    seconds: float = 0.0
    """Of simulated time."""
    events: int = 0
    calls: int = 0
    retries: int = 0
    elections: int = 0
    installs: int = 0
    entries: int = 0
    faults: dict[str, int] = field(default_factory=dict)


class Run:
    """A cluster, its clients and its enemy."""

    def __init__(self, seed: int, *, tracing: bool = False) -> None:
        self.world = World(seed, tracing=tracing)
        self.swarm = draw(self.world.rng)
        self.network = Network(self.world, self.swarm.weather)
        self.checks = Checks()
        self.books = Books()
        configs = self.swarm.configs()
        shard_map = bootstrap(configs[0].cluster)
        for config in configs:
            node = SimNode(config, shard_map, self.network, self.checks, self.swarm)
            self.network.nodes[node.id] = node
        self.nodes = list(self.network.nodes.values())
        self.clients = [
            SimClient(f"c{number}", self.network, self.books, self.swarm)
            for number in range(1, self.swarm.clients + 1)
        ]
        self.nemesis = Nemesis(self.network, self.swarm)

    def storm(self) -> None:
        self.world.note("", f"{self.swarm}")
        for node in self.nodes:
            node.start()
        for client in self.clients:
            client.think()
        self.world.after(1.0, self.nemesis.act)
        self.world.run(self.swarm.seconds)

    def calm(self) -> None:
        """Heal, then demand progress: every client is served, every replica catches up."""
        self.nemesis.heal()
        pace = self.swarm.pace
        self.world.run(CALM_S * pace)
        for client in self.clients:
            client.is_stopped = True
        self.world.run_until(
            lambda: all(client.call is None for client in self.clients), 10.0 * pace, "calls end"
        )
        self._serve_everybody()
        self.world.run_until(self._are_equal, PROGRESS_S * pace, "all members hold the same")
        if self.swarm.flipped_bits:
            what = "everybody votes again, the repaired too"
            everybody = self.nodes
            self.world.run_until(
                lambda: all(map(is_whole, everybody)) and self._are_equal(), PROGRESS_S * pace, what
            )

    def _serve_everybody(self) -> None:
        """A write and a read of every key end well."""
        keys = [b"k%d" % number for number in range(self.swarm.keys)] + [b"count0", b"count1"]
        client = self.clients[0]
        for key in keys:
            for action in (Get(),) if key.startswith(b"count") else (Put(b"last " + key), Get()):
                answered = self.books.calls_answered
                self._ask_until_answered(client, key, action, answered)

    def _ask_until_answered(
        self, client: SimClient, key: bytes, action: Get | Put, answered: int
    ) -> None:
        def is_answered() -> bool:
            if client.call is None and self.books.calls_answered == answered:
                client.ask([(key, action)])
            return self.books.calls_answered > answered

        self.world.run_until(
            is_answered, PROGRESS_S * self.swarm.pace, f"{action} of {key!r} is answered"
        )

    def _are_equal(self) -> bool:
        """Whether every member of every group has applied all that its leader has."""
        return all(self._is_equal(group) for group in self._groups())

    def _groups(self) -> list[GroupId]:
        return list(next(node for node in self.nodes if node.is_up).driver.hosts)

    def _is_equal(self, group: GroupId) -> bool:
        hosts = self._hosts(group)
        leader = next((host for _, host in hosts if host.is_leader), None)
        if leader is None:
            return False
        following = members(leader.core.status(0.0).config)
        prefix = shard_range(leader.shard)[0][:2]
        states = {
            (host.core.applied_index, node.engine.fingerprint(prefix))
            for node, host in hosts
            if host.core.replica in following
        }
        return len(states) == 1 and leader.core.applied_index == leader.core.last_index

    def _hosts(self, group: GroupId) -> list[tuple[SimNode, ShardHost]]:
        return [(node, node.driver.hosts[group]) for node in self.nodes if node.is_up]

    def judge(self) -> None:
        """The clients' books against the laws.

        Raises:
            Violation: a history is not linearizable, or an increment is lost or doubled.
        """
        for key in (b"count0", b"count1"):
            last = next(
                operation.result
                for operation in reversed(self.books.history)
                if operation.key == key and isinstance(operation.action, Get)
            )
            count = int(last or 0)
            sure = self.books.acknowledged[key]
            if not sure <= count <= sure + self.books.uncertain[key]:
                raise Violation(
                    f"{key!r} is {count} after {sure} acknowledged increments and "
                    f"{self.books.uncertain[key]} of unknown outcome"
                )
        verdict = check(self.books.history)
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
            calls=self.books.calls_answered,
            retries=self.books.retries,
            elections=self.checks.elections,
            installs=self.checks.installs,
            entries=self.checks.entries_applied(),
            faults=self.nemesis.done,
        )


def run_seed(seed: int, *, tracing: bool = False) -> Result:
    """Run one seed; whatever goes wrong is in :attr:`Result.failure`."""
    run = Run(seed, tracing=tracing)
    failure = ""
    try:
        run.storm()
        run.calm()
        run.judge()
    except Violation as violation:
        failure = str(violation)
    except Exception as error:  # noqa: BLE001  a mutant may fail in any way, in any place
        failure = f"{type(error).__name__}: {error}"
    return run.result(seed, failure)
