"""Steers the cluster from the leader of the meta group (DESIGN section 5).

The shard map is one value of the meta group's state. Its leader puts the next one in its place by
compare-and-swap, so whatever else happens meanwhile, a map only ever follows the one that it was
made from. What should follow is decided by :mod:`kvstore.sharding.steering` from the map, the
membership's view and the reports of the groups' leaders; this module only gathers those, and
waits for the answer before it proposes again. An administrator's order goes the same way.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from kvstore.errors import KVError, NotLeader, Overloaded
from kvstore.ids import META_GROUP
from kvstore.kv import commands
from kvstore.kv.replies import decode_reply
from kvstore.server.pending import Write
from kvstore.server.waiting import Signal, Turns
from kvstore.sharding.changes import succeed
from kvstore.sharding.farewells import Farewells
from kvstore.sharding.known import Known, Report, Seen
from kvstore.sharding.stalls import Stalls
from kvstore.sharding.steering import next_map
from kvstore.swim.claims import State
from kvstore.wire.map_codec import decode_map, encode_map

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from kvstore.config import ShardingConfig
    from kvstore.ids import GroupId
    from kvstore.server.raft_driver import RaftDriver
    from kvstore.server.scheduling import Loop
    from kvstore.server.shard_host import ShardHost
    from kvstore.sharding.shard_map import ShardMap
    from kvstore.swim.ready import MemberStatus

log = logging.getLogger(__name__)

MAP_KEY: Final = b"shard_map"
STEER_INTERVAL_S: Final = 0.2
PROPOSAL_S_MAX: Final = 10.0


class _Outcome:
    """The one answer of a proposal. Implements :class:`kvstore.server.pending.Answer`."""

    def __init__(self, loop: Loop) -> None:
        self._is_told = Signal(loop)
        self._answer: bool | KVError | None = None

    def reply(self, body: bytes) -> None:
        """It was run; whether the map was still the expected one stands in ``body``."""
        answer = decode_reply(body, 1)
        if isinstance(answer, KVError):
            self.fail(answer)
        else:
            self._tell(bool(answer.effects[0]))

    def fail(self, error: KVError) -> None:
        """It was not run, or nobody knows."""
        self._tell(error)

    def _tell(self, answer: bool | KVError) -> None:
        if self._answer is None:
            self._answer = answer
            self._is_told.set()

    async def within(self, seconds: float) -> bool:
        """Whether the map was the expected one.

        Raises:
            TimeoutError: nobody has said so in time.
            KVError: see :meth:`fail`.
        """
        await self._is_told.wait_for(seconds)
        if self._answer is None:
            raise TimeoutError
        if isinstance(self._answer, KVError):
            raise self._answer
        return self._answer


class Controller:
    """Invariant: at most one proposal of this node is under way."""

    def __init__(
        self,
        driver: RaftDriver,
        *,
        founding: ShardMap | None,
        policy: ShardingConfig,
        admit_after_s: float,
        members: Callable[[], Iterable[MemberStatus]],
        on_map: Callable[[ShardMap], None],
        announce: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        """Steer nothing yet.

        Args:
            driver: Of the node's groups; the meta group may come and go.
            founding: The cluster's first map, if this node knows it.
            policy: What is done without being told to.
            admit_after_s: For how long a newcomer must have answered all probes.
            members: The membership's view.
            on_map: Told of each map that the meta group has committed, as far as this node is in
                it.
            announce: Tells the other nodes that there is a newer map, for them to fetch it.
            clock: Steady seconds.
        """
        self._driver = driver
        self._founding = founding
        self._policy = policy
        self._admit_after_s = admit_after_s
        self._members = members
        self._on_map = on_map
        self._announce = announce
        self._clock = clock
        self._reports: dict[GroupId, Report] = {}
        self._stalls = Stalls()
        self._farewells = Farewells()
        self._led_since: float | None = None
        self._turn = Turns(driver.loop)
        self._seen_revision = 0
        self._hurry = Signal(driver.loop)

    # -- what the meta group says ---------------------------------------------------------------

    def attach(self, host: ShardHost) -> None:
        """``host`` is this node's replica of the meta group, if it is."""
        if host.is_meta:
            self._seen_revision = 0
            host.on_written = lambda: self._look(host)
            self._look(host)

    def _look(self, host: ShardHost) -> None:
        """Pass on the map if the replica has a newer one than before."""
        row = host.machine.get_many([MAP_KEY])[0]
        if row is not None and row[1] > self._seen_revision:
            self._seen_revision = row[1]
            self._on_map(decode_map(row[0]))
            self._hurry.set()

    def take(self, reports: Iterable[Report]) -> None:
        """Leaders of groups tell how far they are."""
        if self._led_since is not None:
            now = self._clock()
            for report in reports:
                self._reports[report.group] = report
                self._stalls.note(report, now)
            self._hurry.set()

    # -- steering ---------------------------------------------------------------------------------

    async def run(self) -> None:
        """Steer whenever this node leads the meta group, until cancelled."""
        while True:
            self._hurry.clear()
            await self._hurry.wait_for(STEER_INTERVAL_S)
            host = self._leading()
            if host is None:
                self._led_since = None
                self._reports.clear()
                self._stalls.clear()
                self._farewells.clear()
                continue
            if self._led_since is None:
                self._led_since = self._clock()
            try:
                await self._steer(host)
            except (KVError, TimeoutError) as error:
                is_usual = not isinstance(error, KVError) or error.retryable
                level = logging.DEBUG if is_usual else logging.WARNING
                log.log(level, "the shard map was not changed: %s", error)

    def _leading(self) -> ShardHost | None:
        host = self._driver.hosts.get(META_GROUP)
        return host if host is not None and host.is_leader else None

    async def _steer(self, host: ShardHost) -> None:
        async with self._turn:
            stored = self._stored(host)
            if stored is None:
                if self._founding is not None:
                    await self._swap(host, None, self._founding)
                return
            body, shard_map = stored
            now = self._clock()
            self._farewells.look(shard_map, now)
            for node in self._stalls.look(shard_map, now):
                log.warning("%s does not take in what it is to hold; later again", node)
            after = next_map(shard_map, self.known(shard_map))
            if after is not None:
                await self._swap(host, body, after)

    @staticmethod
    def _stored(host: ShardHost) -> tuple[bytes, ShardMap] | None:
        row = host.machine.get_many([MAP_KEY])[0]
        return None if row is None else (row[0], decode_map(row[0]))

    async def _swap(self, host: ShardHost, before: bytes | None, after: ShardMap) -> bool:
        """Put ``after`` in the place of ``before``; False if something else stands there."""
        command = (commands.CAS, MAP_KEY, before, encode_map(after))
        outcome = _Outcome(self._driver.loop)
        host.write(Write(1, commands.encode_batch(0, 0, 0, 0, [command]), outcome))
        self._driver.wake(host)
        is_swapped = await outcome.within(PROPOSAL_S_MAX)
        if is_swapped:
            log.info("the shard map is of version %d now", after.version)
            self._announce()
        return is_swapped

    def known(self, shard_map: ShardMap) -> Known:
        """What there is to go by."""
        now = self._clock()
        under_way = {change.group for change in shard_map.changes}
        self._reports = {g: r for g, r in self._reports.items() if g in under_way}
        found = {member.node: self._see(member) for member in self._members()}
        # Whoever was dead for so long that it was forgotten is gone all the same.
        forgotten = Seen("", 1.0, "", is_alive=False, gone_s=self._led_s, is_settled=False)
        seen = {
            **{node.id: forgotten for node in shard_map.nodes},
            **{node: member for node, member in found.items() if member is not None},
        }
        return Known(
            seen,
            dict(self._reports),
            self._policy,
            self._stalls.stalled(now),
            self._stalls.unfit(now),
            self._farewells.over(seen, now),
        )

    @property
    def _led_s(self) -> float:
        """Whoever has just begun to lead has seen nothing of what came before."""
        return 0.0 if self._led_since is None else self._clock() - self._led_since

    def _see(self, member: MemberStatus) -> Seen | None:
        said = member.metadata
        if said is None:
            return None
        is_gone = member.state in (State.DEAD, State.LEFT)
        gone_s = min(member.age_s, self._led_s) if is_gone else 0.0
        is_alive = member.state is State.ALIVE
        # Whoever was not probed yet may be a mere name.
        is_there = is_alive and member.has_answered
        is_settled = is_there and member.age_s >= self._admit_after_s
        version = member.vitals.map_version
        return Seen(
            said.address,
            said.weight,
            said.zone,
            is_alive,
            gone_s,
            is_settled,
            version,
            member.has_answered,
        )

    async def order(self, change: Callable[[ShardMap, Known], ShardMap]) -> ShardMap:
        """Carry out what an administrator wants, after whatever is under way.

        Args:
            change: Makes the map that is wanted of the present one; raises a KVError to refuse.

        Returns:
            The map that says so; committed.

        Raises:
            NotLeader: this node does not lead the meta group; nothing was changed.
            Overloaded: the map was changed by another meanwhile; nothing was changed here.
            KVError: refused by ``change``, or the outcome is not known.
        """
        async with self._turn:
            host = self._leading()
            if host is None:
                raise self._not_leading()
            stored = self._stored(host)
            if stored is None:
                raise Overloaded("the cluster is being founded; try again")
            body, shard_map = stored
            after = change(shard_map, self.known(shard_map))
            if after == shard_map:
                return shard_map
            after = succeed(shard_map, after)
            if not await self._swap(host, body, after):
                raise Overloaded("the shard map has changed meanwhile; try again")
            return after

    def _not_leading(self) -> NotLeader:
        host = self._driver.hosts.get(META_GROUP)
        leader = None if host is None else host.leader_node
        return NotLeader("this node does not lead the meta group", leader=leader)
