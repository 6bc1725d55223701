"""Carries out what administrators order: one after the other, each by the meta group's leader."""

from __future__ import annotations

import asyncio
import contextlib
from functools import partial
from typing import TYPE_CHECKING, Final, assert_never

from kvstore.errors import InvalidArgument, KVError, NotLeader, Overloaded, Unavailable
from kvstore.ids import group_of_shard
from kvstore.server import fatal
from kvstore.sharding import orders
from kvstore.wire import admin
from kvstore.wire.admin import Action, Moving, Order, OrderReply
from kvstore.wire.frames import encode_frame
from kvstore.wire.kinds import Kind
from kvstore.wire.requests import encode_error

if TYPE_CHECKING:
    from collections.abc import Callable

    from kvstore.server.clients import Connection
    from kvstore.server.controller import Controller
    from kvstore.server.raft_driver import RaftDriver
    from kvstore.sharding.known import Known
    from kvstore.sharding.shard_map import ShardMap
    from kvstore.wire.frames import Frame

ORDERS_MAX: Final = 16
"""Orders that wait for their turn; there are few administrators."""
ORDER_S_MAX: Final = 10.0


class Administration:
    """Invariant: each order that was taken gets one answer, also when the node stops."""

    def __init__(
        self, controller: Controller, driver: RaftDriver, *, clock: Callable[[], float]
    ) -> None:
        self._controller = controller
        self._driver = driver
        self._clock = clock
        self._under_way: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Give up what waits; it is answered."""
        for task in self._under_way:
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)

    # -- orders -------------------------------------------------------------------------------

    def order(self, connection: Connection, frame: Frame) -> None:
        """Take an ORDER; it is answered once the meta group has committed it.

        Raises:
            InvalidArgument: malformed.
            Overloaded: too many orders wait already.
        """
        wanted = admin.decode_order(frame.body)
        if len(self._under_way) >= ORDERS_MAX:
            raise Overloaded(f"{ORDERS_MAX} orders are waiting already; try again")
        work = self._answer(connection, frame.request, wanted)
        task = asyncio.get_running_loop().create_task(work)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        task.add_done_callback(fatal.report)

    async def _answer(self, connection: Connection, request: int, wanted: Order) -> None:
        error: KVError = Unavailable("the node is stopping", may_have_applied=True)
        reply: bytes | None = None
        try:
            async with asyncio.timeout(ORDER_S_MAX):
                reply = admin.encode_order_reply(await self._carry_out(wanted))
        except TimeoutError:
            error = Unavailable("the order was not committed in time", may_have_applied=True)
        except KVError as refused:
            error = refused
        finally:
            kind = Kind.ERROR if reply is None else Kind.REPLY
            body = encode_error(error) if reply is None else reply
            connection.send(encode_frame(kind, request, body))

    async def _carry_out(self, wanted: Order) -> OrderReply:
        moves: list[Moving] = []

        def change(shard_map: ShardMap, known: Known) -> ShardMap:
            if wanted.action in (Action.PLAN, Action.REBALANCE):
                found = orders.what_would_move(shard_map, known)
                moves.extend(Moving(move.group, move.add, move.remove) for move in found)
            return _change(wanted)(shard_map, known)

        shard_map = await self._controller.order(change)
        return OrderReply(shard_map.version, moves)

    # -- leaders --------------------------------------------------------------------------------

    def transfer(self, connection: Connection, frame: Frame) -> None:
        """Begin to hand a shard over; answered at once, for it may fail yet.

        Raises:
            InvalidArgument: malformed, or the node has no vote in the shard.
            NotLeader: another node leads it.
        """
        wanted = admin.decode_transfer(frame.body)
        host = self._driver.hosts.get(group_of_shard(wanted.shard))
        if host is None or not host.is_leader:
            leader = None if host is None else host.leader_node
            raise NotLeader(f"shard {wanted.shard} is not led here", leader=leader)
        voters = {host.replicas.get(voter): voter for voter in host.core.config.voters}
        replica = voters.get(wanted.node)
        if replica is None:
            names = ", ".join(sorted(node for node in voters if node is not None))
            raise InvalidArgument(
                f"{wanted.node} has no vote in shard {wanted.shard}; {names} have one"
            )
        if replica != host.core.replica:
            with contextlib.suppress(NotLeader):
                host.core.transfer_leadership(replica, self._clock())
            self._driver.wake(host)
        connection.send(encode_frame(Kind.REPLY, frame.request, b""))


def _change(wanted: Order) -> Callable[[ShardMap, Known], ShardMap]:
    """What ``wanted`` makes of a map."""
    match wanted.action:
        case Action.DRAIN:
            return partial(orders.drain, name=wanted.node)
        case Action.ACTIVATE:
            return partial(orders.activate, name=wanted.node)
        case Action.REMOVE:
            return partial(orders.remove, name=wanted.node, is_forced=wanted.is_forced)
        case Action.WEIGHT:
            return partial(orders.weigh, name=wanted.node, weight=wanted.weight)
        case Action.PREFER:
            return partial(orders.prefer, shard=wanted.shard, name=wanted.node)
        case Action.PLAN:
            return lambda shard_map, known: shard_map
        case Action.REBALANCE:
            return orders.rebalance
        case _:
            assert_never(wanted.action)
