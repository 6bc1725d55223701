"""What an administrator orders, and what it is answered: the bodies of those frames.

An ORDER goes to the leader of the meta group; any other node answers NotLeader with its guess who
that is. A TRANSFER goes to the leader of the shard.
"""

from __future__ import annotations

import math
from enum import Enum
from typing import TYPE_CHECKING, Final, NamedTuple

from kvstore.config.settings import WEIGHT_MAX, WEIGHT_MIN
from kvstore.errors import InvalidArgument
from kvstore.ids import GroupId, NodeId, ShardId, is_node_id
from kvstore.wire.codec import ARRAY, BOOL, NIL, TEXT, UINT, check_fields, pack, unpack
from kvstore.wire.requests import decode_fields

if TYPE_CHECKING:
    from collections.abc import Sequence

_REAL: Final = frozenset({float, int})


class Action(Enum):
    """What is to be done."""

    DRAIN = "drain"
    """The node's replicas go elsewhere; it stays a member."""
    ACTIVATE = "activate"
    """It gets its share again."""
    REMOVE = "remove"
    """Its replicas go elsewhere, and then it goes for good."""
    WEIGHT = "weight"
    """Its share is another from now on."""
    PREFER = "prefer"
    """It should lead a shard of which it has a replica."""
    PLAN = "plan"
    """Nothing: only tell what would move."""
    REBALANCE = "rebalance"
    """Begin with what would move, also where nothing moves by itself."""


class Order(NamedTuple):
    """One order. ``node`` is empty for those that are about none."""

    action: Action
    node: NodeId = NodeId("")
    weight: float = 0.0
    """For WEIGHT."""
    is_forced: bool = False
    """For REMOVE: also where a shard is left with fewer replicas than it should have."""
    shard: ShardId = ShardId(0)
    """For PREFER."""


class Moving(NamedTuple):
    """A replica that moves, or would."""

    group: GroupId
    add: NodeId | None
    remove: NodeId | None


class OrderReply(NamedTuple):
    """What has become of an order."""

    map_version: int
    """Of the map that says so."""
    moves: list[Moving]
    """For PLAN and REBALANCE: what is left to move."""


class TransferRequest(NamedTuple):
    """Let the shard be led by another node."""

    shard: ShardId
    node: NodeId


def encode_order(order: Order) -> bytes:
    """The body of an ORDER frame."""
    return pack((order.action.value, order.node, order.weight, order.is_forced, order.shard))


def decode_order(body: bytes) -> Order:
    """Read the body of an ORDER frame.

    Raises:
        InvalidArgument: malformed, or not an order that can be given.
    """
    name, node, weight, is_forced, shard = decode_fields(
        body, "order", TEXT, TEXT, _REAL, BOOL, UINT
    )
    try:
        action = Action(name)
    except ValueError:
        raise InvalidArgument(f"order: unknown action {name[:40]!r}") from None
    if bool(node) != (action not in (Action.PLAN, Action.REBALANCE)):
        raise InvalidArgument(f"order: {action.value} needs a node, or is about none")
    if node and not is_node_id(node):
        raise InvalidArgument("order: not the name of a node")
    if action is Action.WEIGHT and not (
        math.isfinite(weight) and WEIGHT_MIN <= weight <= WEIGHT_MAX
    ):
        raise InvalidArgument(f"a weight is from {WEIGHT_MIN:g} to {WEIGHT_MAX:g}")
    return Order(action, NodeId(node), float(weight), is_forced, ShardId(shard))


def encode_order_reply(reply: OrderReply) -> bytes:
    """The answer to an ORDER."""
    return pack((reply.map_version, reply.moves))


def decode_order_reply(body: bytes) -> OrderReply:
    """Read the answer to an ORDER.

    Raises:
        ProtocolError: malformed.
    """
    version, rows = check_fields(unpack(body), "order reply", UINT, ARRAY)[:2]
    return OrderReply(version, [_moving(row) for row in rows])


def _moving(row: Sequence[object]) -> Moving:
    group, add, remove = check_fields(row, "order reply: a move", UINT, TEXT | NIL, TEXT | NIL)[:3]
    return Moving(GroupId(group), add, remove)


def encode_transfer(request: TransferRequest) -> bytes:
    """The body of a TRANSFER frame; the answer to it has none."""
    return pack(request)


def decode_transfer(body: bytes) -> TransferRequest:
    """Read the body of a TRANSFER frame.

    Raises:
        InvalidArgument: malformed.
    """
    shard, node = decode_fields(body, "transfer", UINT, TEXT)
    if not is_node_id(node):
        raise InvalidArgument("transfer: not the name of a node")
    return TransferRequest(ShardId(shard), NodeId(node))
