"""Giving an order to whoever leads a group: the meta group, or a shard's.

Any node may be asked first: one that does not lead says who does, as far as it knows, and its
shard map says where that one listens. Orders that were given twice do no harm, so one without
an answer is given again; a failure says whether it may have been carried out.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final

from kvstore.cli.conversation import ANSWER_WAIT_S, Conversation
from kvstore.errors import InvalidArgument, KVError, NotLeader, Refused, Unavailable
from kvstore.sharding import map_wire
from kvstore.wire.admin import (
    Action,
    Order,
    OrderReply,
    TransferRequest,
    decode_order_reply,
    encode_order,
    encode_transfer,
)
from kvstore.wire.kinds import Kind
from kvstore.wire.requests import decode_shard_map_reply

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kvstore.cli.endpoints import Endpoints
    from kvstore.ids import NodeId, ShardId
    from kvstore.sharding.shard_map import ShardMap

RETRY_S: Final = 0.1
"""From a round in which nobody took it to the next."""


async def give(endpoints: Endpoints, order: Order, *, timeout_s: float) -> OrderReply:
    """Have ``order`` carried out.

    Raises:
        InvalidArgument: it was refused; says why.
        Unavailable: nobody has carried it out within ``timeout_s``, or nobody has said so.
    """
    call = LeaderCall(endpoints, Kind.ORDER, encode_order(order), "the meta group")
    try:
        return decode_order_reply(await call.answer(timeout_s))
    except InvalidArgument:
        shard_map = call.shard_map
        is_done = shard_map is not None and order.node in shard_map.removed
        if shard_map is not None and call.is_doubtful and is_done and order.action is Action.REMOVE:
            return OrderReply(shard_map.version, [])  # by the one to which nobody answered
        raise


async def begin_transfer(
    endpoints: Endpoints, shard: ShardId, node: NodeId, *, timeout_s: float
) -> None:
    """Have the leader of ``shard`` begin to hand it over to ``node``.

    Raises:
        InvalidArgument: ``node`` cannot lead it; says who can.
        Unavailable: nobody leads it, or nobody has answered, within ``timeout_s``.
    """
    body = encode_transfer(TransferRequest(shard, node))

    def leader(leaders: Mapping[ShardId, NodeId]) -> NodeId | None:
        return leaders.get(shard)

    await LeaderCall(endpoints, Kind.TRANSFER, body, f"shard {shard}", leader).answer(timeout_s)


class LeaderCall:
    """One request to the leader of a group, and what was heard on the way to it."""

    def __init__(
        self,
        endpoints: Endpoints,
        kind: Kind,
        body: bytes,
        group: str,
        guess: Callable[[Mapping[ShardId, NodeId]], NodeId | None] = lambda leaders: None,
    ) -> None:
        """Nothing is asked yet.

        Args:
            endpoints: Where to begin.
            kind: Of the request, together with ``body``.
            body: Of its frame.
            group: What is led, in words.
            guess: Who leads it, of the shards' leaders as a node knows them.
        """
        self._endpoints = endpoints
        self._kind = kind
        self._body = body
        self._group = group
        self._guess = guess
        self.shard_map: ShardMap | None = None
        """The newest that was seen."""
        self.is_doubtful = False
        """It was sent, and not answered: it may have been carried out."""

    async def answer(self, timeout_s: float) -> bytes:
        """The body of the leader's answer.

        Raises:
            InvalidArgument: the leader refuses.
            Refused: whoever was asked has turned us away.
            Unavailable: there was no answer within ``timeout_s``.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        failure: KVError | None = None
        try:
            async with asyncio.timeout_at(deadline):
                while True:
                    outcome = await self._one_round()
                    if isinstance(outcome, bytes):
                        return outcome
                    if isinstance(outcome, Refused):
                        raise outcome
                    failure = outcome or failure
                    await asyncio.sleep(RETRY_S)
        except TimeoutError:
            said = "nobody answers" if failure is None else failure.message
            raise Unavailable(
                f"{self._group}: no leader has answered within {timeout_s:g} s ({said})",
                may_have_applied=self.is_doubtful,
            ) from failure

    async def _one_round(self) -> bytes | KVError | None:
        """Ask every node that is known once, a leader that was named before the others."""
        waiting, asked = deque(self._addresses()), set[str]()
        failure: KVError | None = None
        while waiting:
            address = waiting.popleft()
            if address in asked:
                continue
            asked.add(address)
            try:
                return await self._ask(address)
            except KVError as error:
                if not (error.retryable or isinstance(error, Refused)):
                    raise
                if not isinstance(error, Unavailable) or failure is None:
                    failure = error
                if isinstance(error, NotLeader) and (named := self._address_of(error.leader)):
                    waiting.appendleft(named)
        return failure

    async def _ask(self, address: str) -> bytes:
        """Its map, then the request: so it is known whether the request can have arrived."""
        cluster = self._endpoints.cluster
        conversation = Conversation(address, None if cluster is None else cluster.id, ANSWER_WAIT_S)
        try:
            reply = decode_shard_map_reply(await conversation.ask(Kind.SHARD_MAP))
            self._look_at(map_wire.decode(reply.map))
            was_doubtful, self.is_doubtful = self.is_doubtful, True
            try:
                body = await conversation.ask(self._kind, self._body)
            except KVError as error:
                is_told = not isinstance(error, Unavailable) and not error.may_have_applied
                self.is_doubtful = was_doubtful or not is_told
                if isinstance(error, NotLeader) and error.leader is None:
                    error.leader = self._guess(reply.leaders)
                raise
        finally:
            conversation.close()
        return body

    def _look_at(self, shard_map: ShardMap) -> None:
        if self.shard_map is None or self.shard_map.version < shard_map.version:
            self.shard_map = shard_map

    def _addresses(self) -> list[str]:
        """Those that were named, and those of the map."""
        members = () if self.shard_map is None else self.shard_map.nodes
        return [*self._endpoints.addresses, *(node.address for node in members)]

    def _address_of(self, node: str | None) -> str | None:
        shard_map = self.shard_map
        if node is None or shard_map is None or not shard_map.has(node):
            return None
        return shard_map.node(node).address
