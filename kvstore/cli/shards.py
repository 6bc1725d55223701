"""``shards``: each arc of the ring, who holds it, and how it is."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import click

from kvstore.cli import output
from kvstore.cli.conversation import ANSWER_WAIT_S
from kvstore.cli.endpoints import resolve
from kvstore.cli.movement import path, size
from kvstore.cli.options import Command, Settings
from kvstore.cli.survey import survey_endpoints
from kvstore.errors import Unavailable
from kvstore.ids import ShardId, group_of_shard
from kvstore.sharding.ring import arc_in_hex

if TYPE_CHECKING:
    from kvstore.cli.view import ShardView
    from kvstore.sharding.shard_map import Change, Replica, ShardMap

NOTHING: Final = "-"
HEADER: Final = ("shard", "arc", "keys", "bytes", "leader", "replicas", "state", "lag")


@click.command(cls=Command)
@click.pass_obj
def shards(settings: Settings) -> None:
    """Show each shard: its arc of the ring, its size, its replicas and what becomes of them.

    The arc is that of the keys' hashes. The state is ok, moving (from a node to another),
    under-replicated (fewer replicas answer and vote than there should be) or no leader; the
    lag is how many entries of its log the slowest replica lacks.
    """
    endpoints = resolve(settings)
    survey = asyncio.run(survey_endpoints(endpoints, settings.timeout or ANSWER_WAIT_S))
    shard_map = survey.shard_map
    if shard_map is None or not survey.answers:
        raise survey.refusal or Unavailable(f"no node answers at {endpoints}")
    if settings.format == "json":
        rows = [to_json(shard_map, shard) for shard in survey.view.shards]
        output.write_json({"map_version": shard_map.version, "shards": rows})
    else:
        lines = [to_row(shard_map, shard) for shard in survey.view.shards]
        output.write_rows(settings.format, HEADER, lines)


def to_row(shard_map: ShardMap, shard: ShardView) -> list[str]:
    """For the eye; a replica that does not answer has a question mark."""
    replicas = (f"{node}?" if node in shard.unreachable else node for node in shard.replicas)
    return [
        str(shard.id),
        "..".join(arc_in_hex(ShardId(shard.id), shard_map.shards)),
        NOTHING if shard.keys is None else str(shard.keys),
        size(shard.size_bytes),
        shard.leader or NOTHING,
        ", ".join(replicas),
        state_of(shard_map, shard),
        NOTHING if shard.lag is None else str(shard.lag),
    ]


def to_json(shard_map: ShardMap, shard: ShardView) -> dict[str, Any]:
    """For programs."""
    first, last = arc_in_hex(ShardId(shard.id), shard_map.shards)
    change = _change(shard_map, shard)
    ends = None if change is None else {"from": _node(change.remove), "to": _node(change.add)}
    return {
        "id": shard.id,
        "arc": {"first": first, "last": last},
        "keys": shard.keys,
        "bytes": shard.size_bytes,
        "leader": shard.leader,
        "replicas": list(shard.replicas),
        "unreachable": list(shard.unreachable),
        "state": state_of(shard_map, shard),
        "moving": ends,
        "lag": shard.lag,
    }


def state_of(shard_map: ShardMap, shard: ShardView) -> str:
    """The most urgent thing that there is to say."""
    if shard.leader is None:
        return "no leader"
    change = _change(shard_map, shard)
    if change is not None:
        verb = "going back" if change.cancelled_at else "moving"
        return f"{verb} {path(_node(change.add), _node(change.remove))}"
    good = set(shard.replicas) - {*shard.unreachable, *shard.learners}
    return "ok" if len(good) >= shard_map.replication else "under-replicated"


def _change(shard_map: ShardMap, shard: ShardView) -> Change | None:
    return shard_map.change_of(group_of_shard(ShardId(shard.id)))


def _node(replica: Replica | None) -> str | None:
    return None if replica is None else replica.node
