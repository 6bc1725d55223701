"""``rebalance`` and ``transfer``: replicas and leaders go where an administrator wants them."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

import click

from kvstore.cli import output
from kvstore.cli.endpoints import resolve
from kvstore.cli.fates import node_name
from kvstore.cli.movement import group_name, move_json, path
from kvstore.cli.options import Command, Settings, whole_number
from kvstore.cli.ordering import begin_transfer, give
from kvstore.cli.progress import progress
from kvstore.cli.survey import survey_endpoints
from kvstore.errors import InvalidArgument, Unavailable
from kvstore.ids import NodeId, ShardId
from kvstore.wire.admin import Action, Order

if TYPE_CHECKING:
    from collections.abc import Callable

    from kvstore.cli.endpoints import Endpoints
    from kvstore.sharding.shard_map import ShardMap
    from kvstore.wire.admin import Moving

POLL_S: Final = 0.05
TRANSFER_AGAIN_S: Final = 1.0
"""A transfer that had no effect for so long has failed; another may succeed."""


@click.command(cls=Command)
@click.option("--plan", is_flag=True, help="Only show what would move.")
@click.option("--now", is_flag=True, help="Let it move, also if nothing moves by itself.")
@click.pass_obj
def rebalance(settings: Settings, plan: bool, now: bool) -> None:
    """Show or begin the moves that would make the load even.

    Returns at once; kv moves -f shows how far they are.
    """
    if plan == now:
        raise click.UsageError("say either --plan or --now")
    endpoints = resolve(settings)
    action = Action.PLAN if plan else Action.REBALANCE
    moves, shard_map = asyncio.run(_give(endpoints, Order(action), settings.timeout_s))
    replicas = sum(len(members) for members in shard_map.replicas)
    under_way = len(shard_map.changes)
    if settings.format == "json":
        output.write_json(
            {
                "moves": [move_json(*move) for move in moves],
                "replicas": replicas,
                "under_way": under_way,
                "is_ordered": now,
            }
        )
        return
    for text in report(moves, replicas, under_way, is_ordered=now):
        output.line(text)


async def _give(
    endpoints: Endpoints, order: Order, timeout_s: float
) -> tuple[list[Moving], ShardMap]:
    reply = await give(endpoints, order, timeout_s=timeout_s)
    shard_map = (await survey_endpoints(endpoints)).shard_map
    if shard_map is None:
        raise Unavailable(f"no node answers at {endpoints}")
    return reply.moves, shard_map


def report(moves: list[Moving], replicas: int, under_way: int, *, is_ordered: bool) -> list[str]:
    """The moves, one a line, and how many of how many that is."""
    lines = [f"{group_name(move.group)}  {path(move.add, move.remove)}" for move in moves]
    if under_way:
        lines.append(f"{under_way} under way already (kv moves)")
    if not moves:
        lines.append("nothing else would move" if under_way else "nothing would move: it is even")
    elif is_ordered:
        lines.append(f"{len(moves)} of {replicas} replicas are to move: kv moves -f")
    else:
        lines.append(f"{len(moves)} of {replicas} replicas would move")
    return lines


@click.command(cls=Command)
@click.argument("shard", metavar="SHARD", type=whole_number(at_least=0))
@click.argument("node", metavar="NODE", type=node_name)
@click.pass_obj
def transfer(settings: Settings, shard: int, node: NodeId) -> None:
    """Let NODE, which has a replica of SHARD, lead it.

    Returns when it does. It stays so; if NODE then leads too many, another of its shards goes to
    the former leader in return.
    """
    endpoints = resolve(settings)
    with progress(f"Handing shard {shard} to {node}") as tell:
        asyncio.run(_transfer(endpoints, ShardId(shard), node, settings.timeout_s, tell))
    if settings.format == "json":
        output.write_json({"shard": shard, "leader": node})
    else:
        output.line(f"shard {shard} is led by {node}")


async def _transfer(
    endpoints: Endpoints,
    shard: ShardId,
    node: NodeId,
    timeout_s: float,
    tell: Callable[[str], None],
) -> None:
    """Begin it, and again if it fails, until ``node`` leads.

    Raises:
        InvalidArgument: there is no such shard, or ``node`` cannot lead it.
        Unavailable: it does not lead within ``timeout_s``.
    """
    survey = await survey_endpoints(endpoints)
    if survey.shard_map is None or not survey.answers:
        raise survey.refusal or Unavailable(f"no node answers at {endpoints}")
    if shard >= survey.shard_map.shards:
        raise InvalidArgument(
            f"there is no shard {shard}; there are 0 to {survey.shard_map.shards - 1}"
        )
    deadline = time.monotonic() + timeout_s
    await give(endpoints, Order(Action.PREFER, node, shard=shard), timeout_s=timeout_s)
    begin_at = 0.0
    while True:
        if time.monotonic() >= begin_at:
            left_s = max(POLL_S, deadline - time.monotonic())
            await begin_transfer(endpoints, shard, node, timeout_s=left_s)
            begin_at = time.monotonic() + TRANSFER_AGAIN_S
        leader = (await survey_endpoints(endpoints)).view.shards[shard].leader
        if leader == node:
            return
        lack = f"{leader} leads it still" if leader else "nobody leads it"
        if time.monotonic() >= deadline:
            raise Unavailable(f"{node} does not lead shard {shard} after {timeout_s:g} s: {lack}")
        tell(lack)
        await asyncio.sleep(POLL_S)
