"""``members``: who is alive, as one node sees it, or as each of them does."""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

import click

from kvstore.cli import output
from kvstore.cli.asking import ask_first, ask_one
from kvstore.cli.conversation import ANSWER_WAIT_S
from kvstore.cli.endpoints import Endpoints, resolve
from kvstore.cli.exits import Exit
from kvstore.cli.options import Command, Settings
from kvstore.errors import InvalidArgument, KVError, Unavailable
from kvstore.sharding import map_wire
from kvstore.wire.kinds import Kind
from kvstore.wire.membership import MembersReply, decode_members_reply
from kvstore.wire.requests import decode_shard_map_reply

if TYPE_CHECKING:
    from collections.abc import Awaitable, Mapping, Sequence

    from kvstore.ids import NodeId
    from kvstore.sharding.shard_map import MapNode
    from kvstore.wire.membership import MemberRow

ALL = "all"
NOTHING = "-"
LIVING = ("alive", "suspect")
"""Of others there is nothing to be expected."""
HEADER = (
    "member", "address", "state", "incarnation", "age", "phi", "zone", "weight", "version", "map",
    "load",
)  # fmt: skip
_T = TypeVar("_T")
_Places = dict[str, "MapNode"]
"""Of the shard map, by name."""
_NUMBER = re.compile(r"([0-9]+)")
_UNITS = ((86400.0, "d"), (3600.0, "h"), (60.0, "m"))


@click.command(cls=Command)
@click.option(
    "--from",
    "asked",
    metavar="NODE|all",
    help="Whose view to show; all compares every node's.  [default: the first that answers]",
)
@click.pass_obj
def members(settings: Settings, asked: str | None) -> int:
    """Show the members of the cluster as a node sees them.

    The state of a member is alive, suspect (it did not answer, and has time to refute), dead,
    left (it said goodbye) or removed; age is how long it has been so, phi how surprising its
    silence is. Zone and weight are those of the shard map, by which replicas are placed; of one
    that is not in it, those of its own configuration.
    """
    endpoints = resolve(settings)
    wait_s = settings.timeout or ANSWER_WAIT_S
    if asked == ALL:
        asking = _ask_everyone(endpoints, wait_s)
        return _show_all(settings, *asyncio.run(_with_places(asking, endpoints, wait_s)))
    reply, places = asyncio.run(_with_places(_ask(endpoints, wait_s, asked), endpoints, wait_s))
    if settings.format == "json":
        output.write_json({"members": [_json(row, places.get(row.id)) for row in reply.members]})
    else:
        members = sorted(reply.members, key=lambda row: _in_order(row.id))
        rows = [_row(member, places.get(member.id)) for member in members]
        output.write_rows(settings.format, HEADER, rows)
    return Exit.OK


async def _with_places(
    asking: Awaitable[_T], endpoints: Endpoints, wait_s: float
) -> tuple[_T, _Places]:
    """What is asked for, and at the same time what the shard map says of the nodes."""
    places = asyncio.create_task(_ask_places(endpoints, wait_s))
    try:
        return await asking, await places
    finally:
        places.cancel()


async def _ask_places(endpoints: Endpoints, wait_s: float) -> _Places:
    """By the shard map of the first node that answers; none if it has none yet."""
    try:
        answer = await ask_first(endpoints, Kind.SHARD_MAP, wait_s=wait_s)
        shard_map = map_wire.decode(decode_shard_map_reply(answer.body).map)
    except KVError:
        return {}
    return {node.id: node for node in shard_map.nodes}


async def _ask(endpoints: Endpoints, wait_s: float, asked: str | None) -> MembersReply:
    """The view of the first node that answers, or of the one called ``asked``."""
    reply = decode_members_reply((await ask_first(endpoints, Kind.MEMBERS, wait_s=wait_s)).body)
    if asked is None or asked == reply.asked:
        return reply
    member = next((row for row in reply.members if row.id == asked and row.address), None)
    if member is None:
        raise InvalidArgument(f"there is no member {asked!r} that {reply.asked} could name")
    return await _ask_member(member, wait_s)


async def _ask_member(member: MemberRow, wait_s: float) -> MembersReply:
    """Its own view."""
    reply = decode_members_reply(await ask_one(member.address, Kind.MEMBERS, wait_s=wait_s))
    if reply.asked != member.id:
        raise Unavailable(f"{member.address}: {reply.asked} answers where {member.id} was")
    return reply


async def _ask_everyone(
    endpoints: Endpoints, wait_s: float
) -> tuple[MembersReply, dict[NodeId, MembersReply | KVError]]:
    """The first view, that of every member in it which may be there, and of all endpoints.

    For the first may have never met some of these, which is what is to be seen.
    """
    first = await _ask(endpoints, wait_s, None)
    asked = sorted((m for m in first.members if m.address), key=lambda m: _in_order(m.id))

    async def view(member: MemberRow) -> MembersReply | KVError:
        try:
            return await _ask_member(member, wait_s)
        except KVError as error:
            return error

    async def view_at(address: str) -> MembersReply | None:
        with suppress(KVError):
            return decode_members_reply(await ask_one(address, Kind.MEMBERS, wait_s=wait_s))
        return None

    met = {member.address for member in asked}
    strangers = [address for address in endpoints.addresses if address not in met]
    views, others = await asyncio.gather(
        asyncio.gather(*map(view, asked)), asyncio.gather(*map(view_at, strangers))
    )
    found = dict(zip((member.id for member in asked), views, strict=True))
    return first, found | {reply.asked: reply for reply in others if reply is not None}


def _show_all(
    settings: Settings,
    asked: tuple[MembersReply, dict[NodeId, MembersReply | KVError]],
    places: _Places,
) -> int:
    first, outcomes = asked
    views = {
        node: {row.id: row for row in outcome.members}
        for node, outcome in outcomes.items()
        if isinstance(outcome, MembersReply)
    }
    silent = [node for node in outcomes if node not in views]
    if settings.format == "json":
        output.write_json(
            {
                "views": {
                    node: [_json(row, places.get(row.id)) for row in view.values()]
                    for node, view in views.items()
                },
                "silent": silent,
            }
        )
    else:
        rows = _compared(first, views)
        output.write_rows(settings.format, ["member", *(f"by {node}" for node in views)], rows)
        for node in silent:
            output.note(f"kv: note: {node} does not answer")
    return Exit.OK


def _compared(
    first: MembersReply, views: Mapping[NodeId, Mapping[NodeId, MemberRow]]
) -> list[list[str]]:
    names = dict.fromkeys(row.id for row in first.members)
    for view in views.values():
        names |= dict.fromkeys(view)
    in_order = sorted(names, key=_in_order)
    return [[name, *(_seen(view.get(name)) for view in views.values())] for name in in_order]


def _in_order(name: NodeId) -> list[tuple[int, str]]:
    """As people count: n2 before n10."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in _NUMBER.split(name)]


def _seen(row: MemberRow | None) -> str:
    return NOTHING if row is None else f"{row.state} ({row.incarnation})"


def _row(row: MemberRow, place: MapNode | None) -> Sequence[str]:
    counts = row if place is None else place
    return [
        row.id,
        row.address or NOTHING,
        row.state,
        str(row.incarnation),
        duration(row.age_s),
        f"{row.phi:.1f}" if row.state in LIVING else NOTHING,
        counts.zone or NOTHING,
        f"{counts.weight:g}",
        row.version or NOTHING,
        str(row.map_version) if row.map_version else NOTHING,
        f"{row.load:.2f}",
    ]


def _json(row: MemberRow, place: MapNode | None) -> dict[str, Any]:
    counts = row if place is None else place
    return {
        "id": row.id,
        "address": row.address,
        "state": row.state,
        "incarnation": row.incarnation,
        "age_s": round(row.age_s, 3),
        "phi": round(row.phi, 3),
        "zone": counts.zone,
        "weight": counts.weight,
        "configured": {"zone": row.zone, "weight": row.weight},
        "version": row.version,
        "map_version": row.map_version,
        "load": row.load,
    }


def duration(seconds: float) -> str:
    """``0.3s``, ``12s``, ``4m05s``, ``3h10m``, ``2d04h``: two units at most."""
    if seconds < 9.95:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    smaller = {"d": (3600, "h"), "h": (60, "m"), "m": (1, "s")}
    for size, unit in _UNITS:
        if whole >= size:
            step, small = smaller[unit]
            return f"{int(whole // size)}{unit}{int(whole % size) // step:02}{small}"
    return f"{whole}s"
