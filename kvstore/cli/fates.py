"""``kv node drain``, ``activate``, ``remove`` and ``weight``: what is to become of a node."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kvstore.cli import output
from kvstore.cli.emptying import replicas, wait_until_empty
from kvstore.cli.endpoints import resolve
from kvstore.cli.exits import Exit
from kvstore.cli.options import DIRECTORY_DEFAULT, Command, Settings, weight
from kvstore.cli.ordering import give
from kvstore.cli.outlook import Outlook
from kvstore.cli.progress import countdown
from kvstore.cli.rebalancing import Outcome, outcome_of
from kvstore.cli.survey import survey_endpoints
from kvstore.errors import Unavailable
from kvstore.ids import NodeId, is_node_id
from kvstore.sharding.shard_map import NodeState
from kvstore.wire.admin import Action, Order

if TYPE_CHECKING:
    from kvstore.cli.endpoints import Endpoints


def node_name(text: str) -> NodeId:
    """An argument that can be the name of a node."""
    if not is_node_id(text):
        raise click.BadParameter(f"{text!r} cannot be the name of a node")
    return NodeId(text)


_node = click.argument("node", metavar="NODE", type=node_name)
_no_wait = click.option(
    "--no-wait", is_flag=True, help="Return once it is ordered; kv moves shows how far it is."
)


@click.command(cls=Command)
@_node
@_no_wait
@click.pass_obj
def drain(settings: Settings, node: NodeId, no_wait: bool) -> int:
    """Move everything off NODE, which stays a member.

    Returns when NODE holds nothing, or after --timeout. Where nothing moves it says why, as far
    as that can be seen. Ctrl-C ends only the waiting; kv node activate undoes the order.
    """
    endpoints = resolve(settings)
    order = Order(Action.DRAIN, node)
    return _empty(settings, endpoints, order, NodeState.DRAINING, is_awaited=not no_wait)


@click.command(cls=Command)
@_node
@click.option("--force", is_flag=True, help="Also if shards are left with fewer replicas.")
@_no_wait
@click.pass_obj
def remove(settings: Settings, node: NodeId, force: bool, no_wait: bool) -> int:
    """Move everything off NODE and then end its membership for good.

    Also for one that is dead and never comes back. Its name is never used again. A node of the
    local cluster in --dir is stopped when it is no member any more. Where nothing moves it says
    why, as far as that can be seen. Ctrl-C ends only the waiting; until NODE holds nothing, kv
    node activate undoes the order.
    """
    endpoints = resolve(settings)
    order = Order(Action.REMOVE, node, is_forced=force)
    return _empty(settings, endpoints, order, NodeState.REMOVING, is_awaited=not no_wait)


@click.command(cls=Command)
@_node
@click.pass_obj
def activate(settings: Settings, node: NodeId) -> None:
    """Let NODE have its share again, after drain or before remove has come to its end.

    What has left it comes back by itself, unless the nodes are configured with sharding.balances =
    false: then kv rebalance --now brings it.
    """
    endpoints = resolve(settings)
    version = _order(settings, endpoints, Order(Action.ACTIVATE, node))
    outcome = asyncio.run(outcome_of(endpoints, version))
    said = f"{node} gets its share of the replicas again{outcome or ''}"
    _write(settings, node, NodeState.ACTIVE.value, said, **_outcome_json(outcome))


@click.command("weight", cls=Command)
@_node
@click.argument("share", metavar="W", type=weight)
@click.pass_obj
def weigh(settings: Settings, node: NodeId, share: float) -> None:
    """Give NODE a load of W in relation to the others, whose weight is 1 if nothing else was said.

    The replicas that must move for that begin to, unless the nodes are configured with
    sharding.balances = false: then they stay where they are until kv rebalance --now.
    """
    endpoints = resolve(settings)
    version = _order(settings, endpoints, Order(Action.WEIGHT, node, weight=share))
    outcome = asyncio.run(outcome_of(endpoints, version))
    if settings.format == "json":
        output.write_json({"node": node, "weight": share} | _outcome_json(outcome))
    else:
        output.line(f"{node} has the weight {share:g} from now on{outcome or ''}")


def _outcome_json(outcome: Outcome | None) -> dict[str, Any]:
    if outcome is None:
        return {"moves": None, "is_rebalancing": None}
    return {"moves": outcome.moves, "is_rebalancing": outcome.is_rebalancing}


def _order(settings: Settings, endpoints: Endpoints, order: Order) -> int:
    """Give it; the version of the map that says so."""
    try:
        reply = asyncio.run(give(endpoints, order, timeout_s=settings.timeout_s))
    except Unavailable as error:
        if error.may_have_applied:
            error.message += "; the order may stand nevertheless"
        raise
    return reply.map_version


def _empty(
    settings: Settings, endpoints: Endpoints, order: Order, state: NodeState, *, is_awaited: bool
) -> int:
    """Order that a node be emptied and wait until it is."""
    node, undo = order.node, f"kv node activate {order.node} undoes it"
    said = f"the order may stand nevertheless ({undo})"
    try:
        version = _order(settings, endpoints, order)
        said = f"the order stands, {node} is {state.value} ({undo})"
        _warn_of_zones(endpoints, node, version)
        if not is_awaited:
            done = f"{node} is {state.value}; kv moves shows how far it is"
            _write(settings, node, state.value, done)
            return Exit.OK
        moved = _wait(settings, endpoints, node, state, version)
    except KeyboardInterrupt:
        output.note(f"kv: interrupted; {said}")
        return Exit.INTERRUPTED
    if state is NodeState.DRAINING:
        done = f"{node} holds nothing any more ({replicas(moved)} moved)"
        _write(settings, node, "drained", done, moved=moved)
        return Exit.OK
    stopped = _stop_removed(endpoints, settings, node)
    done = f"{node} is no member any more ({replicas(moved)} moved)"
    done += "; it was stopped" if stopped else "" if stopped is None else "; it did not run"
    _write(settings, node, "removed", done, moved=moved, stopped=bool(stopped))
    if stopped is None:
        output.note(f"kv: note: if {node} still runs, it can be stopped")
    return Exit.OK


def _warn_of_zones(endpoints: Endpoints, node: NodeId, version: int) -> None:
    """Say so where shards will have more in one zone than they had to; if a map tells it."""
    survey = asyncio.run(survey_endpoints(endpoints))
    shard_map = survey.shard_map
    if shard_map is None or shard_map.version < version or not shard_map.has(node):
        return
    statuses = [answer.status for answer in survey.answers.values()]
    shards, most = Outlook(shard_map, statuses).crowded(node)
    if shards:
        output.note(
            f"kv: warning: without {node} there are too few failure zones: {shards} of "
            f"{shard_map.shards} shards will have {most} replicas in one"
        )


def _wait(
    settings: Settings, endpoints: Endpoints, node: NodeId, state: NodeState, version: int
) -> int:
    """Until it is empty; how many replicas it had."""
    title = f"Draining {node}" if state is NodeState.DRAINING else f"Removing {node}"
    with countdown(title, "replicas left") as tell:
        waiting = wait_until_empty(
            endpoints,
            node,
            state,
            map_version=version,
            timeout_s=settings.timeout,
            tell=tell,
            explain=lambda why: output.note(f"kv: note: {why}"),
        )
        return asyncio.run(waiting)


def _stop_removed(endpoints: Endpoints, settings: Settings, node: NodeId) -> bool | None:
    """Stop a former node of a local cluster; whether it ran, None if it is not of this machine."""
    if endpoints.cluster is None:
        return None
    from kvstore.cli.launcher import cluster as clusters
    from kvstore.cli.launcher import growth

    directory = settings.directory or Path(DIRECTORY_DEFAULT)
    with clusters.locked(directory):
        loaded = clusters.load(directory)
        if all(known.id != node for known in loaded.nodes):
            return None
        return growth.retire(loaded, loaded.node(node))


def _write(settings: Settings, node: NodeId, state: str, said: str, **more: Any) -> None:
    if settings.format == "json":
        output.write_json({"node": node, "state": state, **more})
    else:
        output.line(said)
