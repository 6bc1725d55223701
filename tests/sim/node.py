"""One process: what ``kvstore.server.node`` puts together, on simulated time and disk.

A node has lives. Whatever it has asked to be done later is done in the same life or never,
and after any pause. All of one event runs as one iteration of an event loop does; several
inputs may meet in one iteration.
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING

from kvstore.errors import DiskFull, Internal, StartupError, Unavailable
from kvstore.server.admission import Admission
from kvstore.server.raft_driver import TICK_INTERVAL_S
from kvstore.server.upkeep import DiskWatch, hand_over
from kvstore.storage.membership_file import Remembered
from kvstore.storage.memory import MemoryEngine
from sim.assembling import assemble
from sim.disk import DiskCrash, SimDisk
from sim.loop import SimLoop, run_coroutine
from sim.member import SimMember
from sim.world import Violation, place_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from kvstore.config import NodeConfig
    from kvstore.ids import NodeId
    from kvstore.net.transport import Lane
    from kvstore.server.answers import Answers
    from kvstore.server.clients import ClientRequests
    from kvstore.server.raft_driver import RaftDriver
    from kvstore.server.rejoin import Rejoin
    from kvstore.server.shard_host import ShardHost
    from kvstore.server.upkeep import LeaderBalance, LogKeeper
    from kvstore.sharding.shard_map import ShardMap
    from sim.checks import Checks
    from sim.engine import SimEngine
    from sim.identity import SimIdentity
    from sim.log import SimLog
    from sim.moving import Moving
    from sim.network import Network
    from sim.swarm import Swarm

WALL_MS = 1_700_000_000_000
TICK_S_MIN = 0.02
UPKEEP_S = 0.5
BALANCE_S = 2.0
HAND_OVER_S = 1.0
BATCHING_S_MAX = 0.002
"""At most so long do inputs gather before the loop's iteration ends."""


class SimNode:
    """A process of the cluster, its disk, and the clocks of its machine."""

    driver: RaftDriver
    requests: ClientRequests
    wal: SimLog
    engine: SimEngine
    keeper: LogKeeper
    rejoin: Rejoin
    admission: Admission
    answers: Answers
    disk_watch: DiskWatch
    balance: LeaderBalance
    loop: SimLoop
    identity: SimIdentity
    config: NodeConfig

    def __init__(
        self,
        config: NodeConfig,
        founding: ShardMap | None,
        network: Network,
        checks: Checks,
        swarm: Swarm,
    ) -> None:
        self.id: NodeId = config.node_id
        self.founding = founding
        """The cluster's first map, if it was told."""
        self.network = network
        self.world = network.world
        self.checks = checks
        self.swarm = swarm
        self.rng = random.Random(self.world.rng.random())
        self._new_disk(config)
        self.life = 0
        self.is_up = False
        self.paused_until = 0.0
        self._put_off: list[Callable[[], None]] = []
        """What falls due in a pause."""
        self.clock_rate = 1.0 + self.rng.uniform(-1, 1) * swarm.clock_drift
        self.suspended_s = 0.0
        """For how long its steady clock has stood still."""
        self.asleep_since: float | None = None
        self.wall_ahead_ms = 0.0
        self.connected_since: dict[NodeId, float] = {}
        self.member: SimMember | None = None
        """Its part in the membership, in the seeds that have one."""
        self.remembered = Remembered()
        """What its membership file says."""
        self.incarnation_spoken = 0
        """The highest, in any life."""
        self.on_install: Callable[[SimNode], None] = lambda node: None
        """Told when a snapshot is about to be put in force."""
        self.may_be_damaged = False
        """Bits of its disk were flipped, or a sync failed: only then may it refuse to start."""
        self.is_refused = False
        self.is_stopping = False
        self.is_spare = False
        """It waits to be added to the cluster."""
        self.away_until = 0.0
        """Until when nobody starts it."""
        self.deaf_until = 0.0
        """Until when it hears nothing of newer maps."""
        self.moving: Moving | None = None
        """What makes its groups come and go, in the seeds where they do."""
        self.data_life = 0
        """Which life of its data this is (see :mod:`kvstore.ids`); a repair begins the next."""

    @property
    def number(self) -> int:
        """Its place in the cluster's configuration, from 1 on; its replicas carry it."""
        return int(self.id.removeprefix("n"))

    @property
    def is_intact(self) -> bool:
        """Whether it has its data, as far as anybody knows."""
        return not (self.may_be_damaged or self.is_refused)

    def _new_disk(self, config: NodeConfig) -> None:
        self.disk = SimDisk(self.rng)
        self.config = replace(config, data_dir=self.disk.path(f"/{self.id}"))
        self.stored = MemoryEngine()

    @property
    def is_deaf(self) -> bool:
        """Whether it hears nothing of newer maps."""
        return self.world.now < self.deaf_until

    # -- clocks -----------------------------------------------------------------------------

    def clock(self) -> float:
        return (self.world.now - self.suspended_s) * self.clock_rate

    def fall_asleep(self) -> None:
        """The steady clock stands still until this process runs again."""
        if self.asleep_since is None:
            self.asleep_since = self.world.now

    def _wake(self) -> None:
        if self.asleep_since is not None:
            self.suspended_s += self.world.now - self.asleep_since
            self.asleep_since = None

    def wall_ms(self) -> int:
        """The date, which is set by others and so does not drift, but jumps."""
        return WALL_MS + int(self.world.now * 1000 + self.wall_ahead_ms)

    # -- events -----------------------------------------------------------------------------

    def later(self, delay_s: float, action: Callable[[], object]) -> None:
        """Run ``action`` as an iteration of the loop, in this life, after any pause."""
        life = self.life

        def run() -> None:
            if self.life != life:
                return
            if self.world.now < self.paused_until:
                self._put_off.append(run)
                return
            self._wake()
            self._iterate(action)

        self.world.at(self.world.now + delay_s, run)

    def stand_still(self, seconds: float) -> None:
        """Run nothing for so long, or for longer if a pause goes on already."""
        self.paused_until = max(self.paused_until, self.world.now + seconds)

        def end() -> None:
            if self.world.now >= self.paused_until:
                self.go_on()

        self.world.at(self.paused_until, end)

    def go_on(self) -> None:
        """The pause, if there is one, is over: now comes what fell due in it, timers and all."""
        self.paused_until = self.world.now
        put_off, self._put_off = self._put_off, []
        for run in put_off:
            self.world.at(self.world.now, run)

    def _iterate(self, action: Callable[[], object]) -> None:
        life = self.life
        try:
            action()
            if self.life == life and not self.loop.is_idle:
                if self.rng.random() < self.swarm.batching_share:
                    self.later(self.rng.random() * BATCHING_S_MAX, self.loop.drain)
                else:
                    self.loop.drain()
        except DiskCrash as crash:
            self.crash("in an operation", power=crash.is_power_lost)
        except Violation:
            raise
        except Exception as error:
            if self.life == life:  # else it is how the driver says that the node has died
                told = f"{self.id} fails: {type(error).__name__}: {error}{place_of(error)}"
                raise Violation(told) from error
        if self.is_up and self.life == life:
            self.checks.after_iteration(self)

    # -- start and end ------------------------------------------------------------------------

    def start(self) -> None:
        """A new process on what the last one left."""
        self.life += 1
        self.is_up, self.is_stopping = True, False
        self._wake()
        self.connected_since = {}
        self.loop = SimLoop(self)
        self.admission = Admission(pending_bytes_max=self.config.limits.pending_bytes_max)
        self.disk_watch = DiskWatch(
            lambda: self.disk.free_bytes(self.config.data_dir),
            self.admission,
            free_bytes_min=self.config.limits.disk_free_bytes_min,
        )
        self.world.note(self.id, f"starts, life {self.life}")
        try:
            assemble(self)
        except DiskCrash as crash:
            self.crash("while starting", power=crash.is_power_lost)
        except (DiskFull, Internal, OSError) as error:
            self.die(error)
        except StartupError as error:
            if self.disk.has_failed:
                self.crash(f"because {error}")
                return
            if not self.may_be_damaged:
                raise Violation(f"{self.id} refuses to start: {error}") from error
            self.world.note(self.id, f"refuses to start: {error}")
            self.is_refused = True
            self.crash("because its disk is damaged")
        except Violation:
            raise
        except Exception as error:
            told = f"{self.id} fails to start: {type(error).__name__}: {error}{place_of(error)}"
            raise Violation(told) from error
        else:
            self.may_be_damaged = False
            self._go_to_work()

    def _go_to_work(self) -> None:
        self.network.notify(self, is_dead=False, share=0.9)
        self.network.introduce(self, share=0.9)
        self.later(0.0, self._tick)
        self.later(UPKEEP_S, self._upkeep)
        if self.swarm.balances_leaders:
            self.later(BALANCE_S, self._spread)
        if self.swarm.membership:
            self.member = SimMember(self, self.remembered)
        if self.moving is not None:
            self.moving.begin()

    def watch(self, host: ShardHost) -> None:
        """From now on it is checked what ``host`` does."""
        self.checks.watch(self, host, on_install=lambda: self.on_install(self))

    @property
    def shard_map(self) -> ShardMap | None:
        """What it goes by while it runs."""
        return self.founding if self.moving is None else self.moving.maps.shard_map

    def has_removed(self, other: NodeId) -> bool:
        """Whether it will have nothing to do with another node any more."""
        return self.moving is not None and self.is_up and self.moving.has_removed(other)

    def be_removed(self) -> None:
        """Another node says that this one was removed."""
        if self.member is not None:
            self.member.forget([self.id])

    def known_hosts(self) -> list[ShardHost]:
        """Its groups while it runs."""
        return list(self.driver.hosts.values()) if self.is_up else []

    def life_of(self, name: NodeId) -> int | None:
        """What a handshake would tell of a peer that is connected."""
        other = self.network.nodes[name]
        is_cut = self.network.is_cut(self.id, name) or self.network.is_cut(name, self.id)
        return other.data_life if other.is_up and not is_cut else None

    def repair(self) -> None:
        """What ``kv repair`` does: new data in a later life; none of the old is kept."""
        assert not self.is_up
        self.data_life += 1
        self._new_disk(self.config)
        self.checks.lost_data(self)
        self.is_refused = self.may_be_damaged = False
        self.world.note(self.id, f"is repaired, its data begin life {self.data_life}")

    def stop(self) -> None:
        """What a node does when it is asked to stop: its shards first, then its disk."""
        self.world.note(self.id, "is asked to stop")
        self.is_stopping = True
        hand_over(self.driver, self.clock())
        if self.member is not None:
            self.member.leave()
        self.later(HAND_OVER_S, lambda: run_coroutine(self._finish()))

    async def _finish(self) -> None:
        for host in self.driver.hosts.values():
            host.fail_all(Unavailable("the node is stopping"))
        self.driver.stop()
        await self.keeper.flush()
        self.wal.close()
        self.crash("in peace")

    def crash(self, why: str, *, power: bool = False) -> None:
        """The process is gone, and with ``power`` whatever its machine had not synced."""
        if not self.is_up:
            if power:
                self.disk.lose_power()
            return
        self.world.note(self.id, f"dies {why}" + (", power lost" if power else ""))
        self.is_up = False
        self.member = None
        self.life += 1
        self.stored = self.engine.after_crash(self.rng)
        self.disk.process_died()
        if power:
            self.disk.lose_power()
        self.network.notify(self, is_dead=True, share=self.swarm.notice_share)

    def die(self, error: BaseException) -> None:
        """What ``on_fatal`` is: only a disk that has just failed may bring it about."""
        if isinstance(error, DiskCrash | Violation):
            return  # It passes through here on its way to the one who ends this life.
        if isinstance(error, DiskFull):
            is_excused = self.disk.has_refused
        else:
            is_excused = isinstance(error, Internal | OSError) and self.disk.has_failed
        if not is_excused:
            raise Violation(f"{self.id} stops by itself: {type(error).__name__}: {error}")
        self.crash(f"of {error}")

    # -- what it does by itself -----------------------------------------------------------------

    def send(self, peer: NodeId, lane: Lane, frame: bytes) -> bool:
        """Its part of the network; see :class:`kvstore.net.transport.PeerTransport`."""
        self.disk.step()
        return self.network.send(self, peer, lane, frame)

    def peer_gone(self, peer: NodeId) -> None:
        self.connected_since.pop(peer, None)
        self.driver.peer_gone(peer)
        if self.member is not None:
            self.member.hint(peer)

    def peer_connected(self, peer: NodeId) -> None:
        self.connected_since[peer] = self.clock()
        self.driver.peer_connected(peer)
        if self.member is not None:
            self.member.greet(peer)

    def _tick(self) -> None:
        self.driver.guarded(self.driver.tick)
        # In a slow cluster a tick serves for several: nothing is due in between.
        beats_skipped_s = TICK_INTERVAL_S * (self.swarm.time_scale - 1.0)
        delay_s = max(TICK_S_MIN, self.driver.until_tick_s()) + beats_skipped_s
        if not all(host.core.is_settled for host in self.driver.hosts.values()):
            delay_s *= self.rng.uniform(0.5, 1.5)  # Coarse ticks in step would split every vote.
        self.later(delay_s / self.clock_rate, self._tick)

    def _upkeep(self) -> None:
        self.disk_watch.check()
        run_coroutine(self.keeper.check())
        self.rejoin.check()
        self.later(UPKEEP_S * self.swarm.time_scale, self._upkeep)

    def _spread(self) -> None:
        self.balance.check()
        self.later(BALANCE_S * self.swarm.time_scale, self._spread)

    def flush(self) -> None:
        """As if the log had outgrown its bound."""
        run_coroutine(self.keeper.flush())
