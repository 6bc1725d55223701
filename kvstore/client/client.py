"""The asynchronous client: what its users call.

Linearizable by default: a call that begins after another has ended sees its effect. Calls
that overlap may take effect in any order. Every call retries by itself until its deadline; a
write is applied at most once however often it is sent. A failed write says by
``may_have_applied`` whether it may have taken effect.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from kvstore.client.arguments import (
    as_bytes,
    bad_key,
    bad_value,
    check_flag,
    check_limit,
    check_timeout,
    parse_endpoints,
    prefix_end,
)
from kvstore.client.cluster import Cluster, closed
from kvstore.client.options import ClientOptions
from kvstore.client.question import ask
from kvstore.client.scan import ShardCursor, merge
from kvstore.errors import DeadlineExceeded, InvalidArgument, KVError, copy_of
from kvstore.kv.commands import CAS, DELETE, PUT
from kvstore.sharding.ring import position, shard_of
from kvstore.wire.kinds import Kind
from kvstore.wire.requests import ReadMode, ScanReply, ScanRequest, decode_status_reply

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable
    from types import TracebackType

    from kvstore.client.arguments import Text
    from kvstore.client.channel import Channel
    from kvstore.client.key_value import KeyValue
    from kvstore.ids import NodeId, Revision, ShardId
    from kvstore.sharding.shard_map import MapNode, ShardMap

FRAME_OVERHEAD_BYTES = 64 << 10
"""What a frame may need besides keys and values."""
SCAN_PAGE_BYTES_MIN = 64 << 10
SCAN_PAGE_BYTES_MAX = 4 << 20


class Location(NamedTuple):
    """Where a key lives."""

    key: bytes
    shard: ShardId
    replicas: tuple[NodeId, ...]
    leader: NodeId | None
    """None while no reachable node knows one."""


class NodeStatus(NamedTuple):
    """What one node says of itself, or why it says nothing. One of both is None."""

    node: NodeId
    address: str
    status: dict[str, Any] | None
    error: KVError | None


def connect(
    endpoints: str | Iterable[str],
    *,
    timeout_s: float | None = None,
    cluster_id: str | None = None,
    options: ClientOptions | None = None,
) -> Client:
    """A client for the cluster at ``endpoints``, to be entered with ``async with``.

    Args:
        endpoints: ``"host:port,host:port"`` or several of them; one that answers is enough.
        timeout_s: the deadline of each call that names none; 5 if not given.
        cluster_id: refuse nodes of any other cluster.
        options: everything else.

    Raises:
        InvalidArgument: an endpoint or the timeout makes no sense.
    """
    options = options or ClientOptions()
    if timeout_s is not None:
        options = replace(options, timeout_s=timeout_s)
    if cluster_id is not None:
        options = replace(options, cluster_id=cluster_id)
    check_timeout(options.timeout_s)
    return Client(parse_endpoints(endpoints), options)


class Client:
    """One program's connection to a cluster. Not for use by several threads.

    All calls take ``timeout_s``, the deadline for this call. They raise:

    * ``InvalidArgument``: the input breaks a rule; nothing was changed;
    * ``DeadlineExceeded``: no answer in time;
    * ``Unavailable``: no node, or no majority of the key's shard, could be reached in time;
    * ``Overloaded``, ``DiskFull``: refused until the deadline, by a node or by this client;
    * other :class:`~kvstore.errors.KVError`: as they say.
    """

    def __init__(self, endpoints: tuple[str, ...], options: ClientOptions) -> None:
        self.options = options
        self._endpoints = endpoints
        self._opened: Cluster | None = None
        self._opening: Cluster | None = None
        self._is_closed = False
        self._key_bytes_max = options.key_bytes_max
        self._value_bytes_max = options.value_bytes_max
        self._timeout_s = options.timeout_s

    # -- opening and closing ------------------------------------------------------------------

    async def __aenter__(self) -> Client:
        await self.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def open(self) -> None:
        """Connect; ``async with`` does this.

        Raises:
            Unavailable: no endpoint answered within ``timeout_s``.
            Refused: the nodes belong to another cluster or turn us away.
        """
        if self._opened is not None or self._opening is not None or self._is_closed:
            raise InvalidArgument("a client is opened once")
        cluster = self._opening = Cluster(self._endpoints, self.options)
        deadline = cluster.loop.time() + self.options.timeout_s
        try:
            await cluster.unless_closed(cluster.learner.open(deadline))
        except BaseException:
            if not self._is_closed:
                await cluster.close()
            raise
        finally:
            self._opening = None
        if self._is_closed:
            raise closed()
        self._opened = cluster

    async def close(self) -> None:
        """Fail the calls that are under way, and leave nothing behind. May be repeated."""
        cluster = self._opened or self._opening
        if cluster is not None and cluster.loop is not asyncio.get_running_loop():
            raise _another_loop()
        self._is_closed, self._opened = True, None
        if cluster is not None:
            await cluster.close()

    @property
    def _cluster(self) -> Cluster:
        cluster = self._opened
        if cluster is None:
            if self._is_closed:
                raise closed()
            raise InvalidArgument("the client is not open: use it by `async with connect(...)`")
        if cluster.loop is not asyncio.get_running_loop():
            raise _another_loop()
        return cluster

    # -- keys and values ----------------------------------------------------------------------
    # put and get are called some hundred thousand times a second: what the others leave to
    # helpers is written out in them.

    async def put(self, key: Text, value: Text, *, timeout_s: float | None = None) -> Revision:
        """Store ``value`` under ``key``; returns the revision of the change."""
        if type(key) is not bytes:
            key = as_bytes(key, "key")
        if type(value) is not bytes:
            value = as_bytes(value, "value")
        if not 0 < len(key) <= self._key_bytes_max:
            raise bad_key(key, self._key_bytes_max)
        if len(value) > self._value_bytes_max:
            raise bad_value(value, self._value_bytes_max)
        size = len(key) + len(value)
        cluster = self._cluster
        if timeout_s is None:
            deadline = cluster.loop.time() + self._timeout_s
        else:
            deadline = cluster.loop.time() + check_timeout(timeout_s)
        if not cluster.gate.try_enter(size):
            cluster = await self._enter(size, deadline)
        channel = cluster.channels[position(key) >> cluster.arc_bits]
        revision: Revision = await channel.writes.add((PUT, key, value), size, deadline)
        return revision

    async def get(self, key: Text, *, timeout_s: float | None = None) -> KeyValue | None:
        """The value of ``key`` and its revision; None if there is none."""
        if type(key) is not bytes:
            key = as_bytes(key, "key")
        size = len(key)
        if not 0 < size <= self._key_bytes_max:
            raise bad_key(key, self._key_bytes_max)
        cluster = self._cluster
        if timeout_s is None:
            deadline = cluster.loop.time() + self._timeout_s
        else:
            deadline = cluster.loop.time() + check_timeout(timeout_s)
        if not cluster.gate.try_enter(size):
            cluster = await self._enter(size, deadline)
        channel = cluster.channels[position(key) >> cluster.arc_bits]
        found: KeyValue | None = await channel.reads.add(key, size, deadline)
        return found

    async def delete(self, key: Text, *, timeout_s: float | None = None) -> bool:
        """Remove ``key``; returns whether it was there."""
        key = self._key(key)
        size = len(key)
        deadline = self._deadline(timeout_s)
        cluster = await self._enter(size, deadline)
        existed: bool = await cluster.channel_of(key).writes.add((DELETE, key), size, deadline)
        return existed

    async def compare_and_swap(
        self, key: Text, expected: Text | None, value: Text, *, timeout_s: float | None = None
    ) -> bool:
        """Store ``value`` if the present one equals ``expected``; returns whether it did.

        ``expected`` None means that the key must be absent.
        """
        key, value = self._key(key), self._value(value)
        if expected is not None:
            expected = self._value(expected)
        size = len(key) + len(value) + len(expected or b"")
        if size + FRAME_OVERHEAD_BYTES > self.options.frame_bytes_max:
            raise InvalidArgument(f"the two values together have {size} bytes, too many to send")
        deadline = self._deadline(timeout_s)
        cluster = await self._enter(size, deadline)
        command = (CAS, key, expected, value)
        swapped: bool = await cluster.channel_of(key).writes.add(command, size, deadline)
        return swapped

    def _key(self, key: Text) -> bytes:
        if type(key) is not bytes:
            key = as_bytes(key, "key")
        if not 0 < len(key) <= self._key_bytes_max:
            raise bad_key(key, self._key_bytes_max)
        return key

    def _value(self, value: Text) -> bytes:
        if type(value) is not bytes:
            value = as_bytes(value, "value")
        if len(value) > self._value_bytes_max:
            raise bad_value(value, self._value_bytes_max)
        return value

    def _deadline(self, timeout_s: float | None) -> float:
        """By the loop's clock."""
        if timeout_s is None:
            timeout_s = self._timeout_s
        else:
            check_timeout(timeout_s)
        return self._cluster.loop.time() + timeout_s

    async def _enter(self, size: int, deadline: float) -> Cluster:
        """Pass the gate with ``size`` bytes; returns the cluster, which may end during a wait."""
        gate = self._cluster.gate
        if not gate.try_enter(size):
            await gate.enter(size, deadline)
        return self._cluster

    def scan(
        self,
        prefix: Text = b"",
        *,
        start: Text | None = None,
        end: Text | None = None,
        limit: int | None = None,
        keys_only: bool = False,
        timeout_s: float | None = None,
    ) -> AsyncGenerator[KeyValue, None]:
        """Iterate over the items whose keys begin with ``prefix``, in key order over all shards.

        See :mod:`kvstore.client.scan` for what it promises. The deadline is that of each
        wait for the next item, so a long scan may take its time.

        Args:
            prefix: text or bytes; empty for all keys.
            start: the lowest key wanted, if above the prefix.
            end: the lowest key no longer wanted.
            limit: how many items at most.
            keys_only: leave the values out (they are then empty).
            timeout_s: for each wait.
        """
        check_limit(limit)
        check_flag(keys_only, "keys_only")
        low, high = _range(prefix, start, end)
        if timeout_s is not None:
            check_timeout(timeout_s)
        return self._scan(low, high, limit, keys_only, timeout_s or self.options.timeout_s)

    async def _scan(
        self, start: bytes, end: bytes | None, limit: int | None, keys_only: bool, timeout_s: float
    ) -> AsyncGenerator[KeyValue, None]:
        if limit == 0 or (end is not None and start >= end):
            return
        options, cluster = self.options, self._cluster
        channels = cluster.channels
        share = options.scan_bytes_max // (2 * len(channels))
        bytes_max = min(max(share, SCAN_PAGE_BYTES_MIN), SCAN_PAGE_BYTES_MAX)

        def cursor(channel: Channel) -> ShardCursor:
            def ask_page(first: bytes, rows: int) -> asyncio.Future[ScanReply]:
                request = ScanRequest(
                    0, channel.shard, ReadMode.LINEARIZABLE, first, end, rows, bytes_max, keys_only
                )
                return channel.scan(request, cluster.loop.time() + timeout_s)

            return ShardCursor(ask_page, start, page_rows=options.scan_page_rows, limit=limit)

        rows = merge([cursor(channel) for channel in channels], limit)
        async for row in rows:
            yield row

    # -- the cluster --------------------------------------------------------------------------

    async def shard_map(self, *, timeout_s: float | None = None) -> ShardMap:
        """The shard map as a reachable node has it now."""
        cluster = self._cluster
        await cluster.unless_closed(cluster.learner.fresh(self._deadline(timeout_s)))
        assert cluster.shard_map is not None
        return cluster.shard_map

    async def locate(self, key: Text, *, timeout_s: float | None = None) -> Location:
        """The shard of ``key``, the nodes that hold it, and which of them leads."""
        key = self._key(key)
        cluster = self._cluster
        shard = shard_of(key, len(cluster.channels))
        inquiry = cluster.learner.fresh(self._deadline(timeout_s), shard)
        leaders = await cluster.unless_closed(inquiry)
        assert cluster.shard_map is not None
        replicas = tuple(replica.node for replica in cluster.shard_map.replicas_of(shard))
        return Location(key, shard, replicas, leaders.get(shard))

    async def node_statuses(self, *, timeout_s: float | None = None) -> list[NodeStatus]:
        """Ask every node of the shard map how it is, all at once, in the map's order.

        A node that fails or does not answer in time is reported with its error; the call
        itself fails only if the client is closed.
        """
        cluster = self._cluster
        return await cluster.unless_closed(self._statuses(cluster, self._deadline(timeout_s)))

    async def _statuses(self, cluster: Cluster, deadline: float) -> list[NodeStatus]:
        assert cluster.shard_map is not None
        soon = cluster.loop.time() + self.options.attempt_timeout_s
        with suppress(KVError):
            await cluster.learner.fresh(min(deadline, soon))
        nodes = cluster.shard_map.nodes
        return await asyncio.gather(*(self._status_of(node, deadline) for node in nodes))

    async def _status_of(self, node: MapNode, deadline: float) -> NodeStatus:
        try:
            async with asyncio.timeout_at(deadline):
                link = self._cluster.link(node.id)
                await link.opened()
                body = await ask(link, Kind.STATUS, self._cluster.next_request())
                return NodeStatus(node.id, node.address, decode_status_reply(body), None)
        except TimeoutError:
            error: KVError = DeadlineExceeded(f"{node.id} ({node.address}) does not answer")
        except KVError as failure:
            error = copy_of(failure)
        return NodeStatus(node.id, node.address, None, error)


def _another_loop() -> InvalidArgument:
    """The caller's loop can await nothing of the one that the client was opened in."""
    return InvalidArgument(
        "the client was opened in another event loop: connect in the one that uses it"
    )


def _range(prefix: Text, start: Text | None, end: Text | None) -> tuple[bytes, bytes | None]:
    """``[low, high)`` of the keys that begin with ``prefix`` and lie in ``[start, end)``."""
    low = as_bytes(prefix, "prefix")
    high = prefix_end(low)
    if start is not None:
        low = max(low, as_bytes(start, "start"))
    if end is not None:
        stop = as_bytes(end, "end")
        high = stop if high is None else min(high, stop)
    return low, high
