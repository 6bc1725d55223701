"""A cluster that answers by one shard map, and whose leader takes orders as a test says."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

from asked_nodes import AskedNode

from kvstore.config import ClusterConfig, NodeAddress
from kvstore.errors import KVError, NotLeader, Overloaded
from kvstore.ids import NodeId, Revision, ShardId
from kvstore.sharding import changes, map_wire
from kvstore.sharding.shard_map import bootstrap
from kvstore.wire.admin import decode_order, decode_transfer
from kvstore.wire.kinds import Kind
from kvstore.wire.requests import encode_shard_map_reply, encode_status_reply

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from asked_nodes import Question
    from cli_result import Result

    from kvstore.sharding.shard_map import ShardMap
    from kvstore.wire.admin import Order, TransferRequest

LEADER = "n2"
"""Of the meta group and of all shards."""


class Elastic:
    """Nodes that listen. ``on_order`` and ``on_transfer`` run at the leader alone."""

    def __init__(self) -> None:
        self.addresses: dict[str, str] = {}
        self.map: ShardMap
        self.orders: list[Order] = []
        self.transfers: list[TransferRequest] = []
        self.leader = LEADER
        self.known_leader: str | None = LEADER
        """Whom the others name."""
        self.on_order: Callable[[Order], bytes | KVError | None] = lambda order: None
        """None: there is no answer."""
        self.on_transfer: Callable[[TransferRequest], bytes | KVError] = lambda request: b""
        self.on_look: Callable[[], None] = lambda: None
        """Before each answer to SHARD_MAP."""
        self.rows: dict[tuple[str, int], dict[str, Any]] = {}
        """What replicas say beside the usual."""
        self.silent: set[str] = set()
        """These do not say how they are."""
        self.has_meta_leader = True

    @asynccontextmanager
    async def running(self, *names: str, shards: int = 2) -> AsyncIterator[Elastic]:
        nodes = [AskedNode(name, self._answer_of(name)) for name in names]
        async with AsyncExitStack() as stack:
            for node in nodes:
                self.addresses[node.name] = await stack.enter_async_context(node.listening())
            members = tuple(NodeAddress(NodeId(n), self.addresses[n]) for n in names)
            self.map = bootstrap(ClusterConfig("c", members, shards=shards, replicas=3))
            yield self

    def admit(self, newcomer: NodeId, shards: int) -> None:
        """The map is that of a cluster of all others, which ``newcomer`` has just joined."""
        founders = tuple(
            NodeAddress(NodeId(name), address)
            for name, address in self.addresses.items()
            if name != newcomer
        )
        founded = bootstrap(ClusterConfig("c", founders, shards=shards, replicas=3))
        self.map = changes.admit(founded, newcomer, self.addresses[newcomer], 1.0, "")

    def endpoints(self, *names: str) -> str:
        return ",".join(self.addresses[name] for name in names or self.addresses)

    def becomes(self, after: ShardMap) -> None:
        """The next map."""
        self.map = changes.succeed(self.map, after)

    def _answer_of(self, name: str) -> Callable[[Question], None]:
        def answer(question: Question) -> None:
            said = self._answer(name, question)
            if said is not None:
                question.answer(said)

        return answer

    def _answer(self, name: str, question: Question) -> bytes | KVError | None:
        if name in self.silent:
            return Overloaded("not now")
        if question.kind is Kind.SHARD_MAP:
            self.on_look()
            leaders = {ShardId(shard): NodeId(self.leader) for shard in range(self.map.shards)}
            return encode_shard_map_reply(map_wire.encode(self.map), leaders, Revision(1))
        if question.kind is Kind.STATUS:
            return encode_status_reply(self._status(name))
        if name != self.leader:
            return NotLeader("not here", leader=self.known_leader)
        if question.kind is Kind.ORDER:
            self.orders.append(decode_order(question.body))
            return self.on_order(self.orders[-1])
        assert question.kind is Kind.TRANSFER
        self.transfers.append(decode_transfer(question.body))
        return self.on_transfer(self.transfers[-1])

    def _status(self, name: str) -> dict[str, Any]:
        rows = []
        for shard, replicas in enumerate(self.map.replicas):
            if any(replica.node == name for replica in replicas):
                role = "leader" if name == self.leader else "follower"
                row = {"id": shard, "role": role, "leader": self.leader, "term": 1}
                row |= {"commit_index": 9, "applied_index": 9, "last_index": 9}
                row |= {"keys": 100, "bytes": 2000, "learners": []}
                rows.append(row | self.rows.get((name, shard), {}))
        said = {"id": name, "address": self.addresses[name], "state": "serving"}
        leads = name == self.leader and self.has_meta_leader
        meta = {"role": "leader" if leads else "follower", "term": 3, "bytes": 70}
        is_member = any(replica.node == name for replica in self.map.meta)
        return {"node": said, "shards": rows, "meta": meta if is_member else None}


async def run(kv: Callable[..., Result], *arguments: str) -> Result:
    """A command beside the loop in which the nodes live."""
    return await asyncio.to_thread(kv, *arguments)
