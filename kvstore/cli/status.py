"""``status`` and ``locate``: the cluster as its nodes see it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import click

from kvstore.cli import output
from kvstore.cli.conversation import ANSWER_WAIT_S
from kvstore.cli.endpoints import Endpoints, resolve
from kvstore.cli.exits import Exit
from kvstore.cli.options import Command, Settings
from kvstore.cli.survey import Survey, survey_endpoints
from kvstore.cli.text import from_argument, json_value, readable
from kvstore.cli.view import leaders_per_node
from kvstore.config import LimitsConfig
from kvstore.errors import InvalidArgument, Unavailable

if TYPE_CHECKING:
    from kvstore.cli.view import ClusterView, NodeView, ShardView

NOTHING = "-"
NODE_HEADER = (
    *("node", "address", "state", "in map", "weight", "zone", "replicas", "leads", "meta"),
)


@click.command(cls=Command)
@click.pass_obj
def status(settings: Settings) -> int:
    """Show nodes and shards as the cluster sees itself.

    The state of a node is serving or unreachable. In the shard map it is active, draining, lost
    (dead for long: its replicas go elsewhere) or removing, and has a weight and a zone; meta tells
    who leads the meta group, which keeps that map, and who else is in it. A replica that does
    not answer has a question mark.

    Answers as long as one node does, and says what is missing. With no node at all it shows
    what is known of them and ends with code 3.
    """
    endpoints = resolve(settings)
    survey = asyncio.run(_survey(settings, endpoints))
    if settings.format == "json":
        output.write_json(survey.view.to_json())
    else:
        _write_nodes(settings, survey.view)
        if survey.view.shards:
            output.line("")
            _write_shards(settings, survey.view)
        for missing in survey.view.missing() if survey.answers else ():
            output.note(f"kv: note: {missing}")
    if not survey.answers:
        raise survey.refusal or Unavailable(f"no node answers at {endpoints}")
    return Exit.OK


@click.command(cls=Command)
@click.argument("key", type=from_argument)
@click.pass_obj
def locate(settings: Settings, key: bytes) -> None:
    """Show the shard of KEY, the nodes that hold it and the one that leads it."""
    if not key:
        raise InvalidArgument("the key is empty")
    key_bytes_max = LimitsConfig().key_bytes_max
    if len(key) > key_bytes_max:
        raise InvalidArgument(f"the key has {len(key)} bytes, more than {key_bytes_max}")
    endpoints = resolve(settings)
    survey = asyncio.run(_survey(settings, endpoints))
    if survey.shard_map is None or not survey.answers:
        raise survey.refusal or Unavailable(f"no node answers at {endpoints}")
    shard = survey.view.shards[survey.shard_map.shard_of(key)]
    if settings.format == "json":
        output.write_json(
            {
                "key": json_value(key),
                "shard": shard.id,
                "replicas": list(shard.replicas),
                "leader": shard.leader,
            }
        )
        return
    row = [readable(key), str(shard.id), ", ".join(shard.replicas), shard.leader or NOTHING]
    output.write_rows(settings.format, ["key", "shard", "replicas", "leader"], [row])


async def _survey(settings: Settings, endpoints: Endpoints) -> Survey:
    """One round; a longer wait than usual only where ``--timeout`` asks for it."""
    return await survey_endpoints(endpoints, settings.timeout or ANSWER_WAIT_S)


def _write_nodes(settings: Settings, view: ClusterView) -> None:
    led = leaders_per_node(view)
    rows = [_node_row(view, node, led[node.id] if node.id else None) for node in view.nodes]
    output.write_rows(settings.format, NODE_HEADER, rows)


def _node_row(view: ClusterView, node: NodeView, leads: int | None) -> list[str]:
    in_map, row = node.in_map, [node.id or NOTHING, node.address, node.state]
    led = NOTHING if leads is None else str(leads)
    if in_map is None:
        return [*row, *[NOTHING] * 4, led, NOTHING]
    role = "leader" if node.id == view.meta_leader else "member"
    return [
        *row,
        in_map.state,
        f"{in_map.weight:g}",
        in_map.zone or NOTHING,
        str(in_map.replicas),
        led,
        role if in_map.in_meta else NOTHING,
    ]


def _write_shards(settings: Settings, view: ClusterView) -> None:
    header = ["shard", "leader", "term", "replicas", "commit", "applied"]
    output.write_rows(settings.format, header, [_shard_row(shard) for shard in view.shards])


def _replica(shard: ShardView, node: str) -> str:
    """A node's name, and what is unusual about its replica."""
    if node in shard.unreachable:
        return f"{node}?"
    return f"{node} (learner)" if node in shard.learners else node


def _shard_row(shard: ShardView) -> list[str]:
    replicas = [_replica(shard, node) for node in shard.replicas]
    numbers = (shard.term, shard.commit_index, shard.applied_index)
    term, commit, applied = (NOTHING if n is None else str(n) for n in numbers)
    leader = shard.leader or NOTHING
    return [str(shard.id), leader, term, ", ".join(replicas), commit, applied]
