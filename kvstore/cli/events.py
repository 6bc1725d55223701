"""``events``: what has happened to the members, as one node saw it."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import click

from kvstore.cli import output
from kvstore.cli.asking import ask_first
from kvstore.cli.conversation import ANSWER_WAIT_S
from kvstore.cli.endpoints import Endpoints, resolve
from kvstore.cli.options import Command, Settings
from kvstore.wire.kinds import Kind
from kvstore.wire.membership import EventsReply, decode_events_reply, encode_events

if TYPE_CHECKING:
    from kvstore.wire.membership import EventRow

WAIT_MS: Final = 5000
"""How long one question of a follower waits for news."""


@click.command(cls=Command)
@click.option("-f", "--follow", is_flag=True, help="Go on until Ctrl-C.")
@click.pass_obj
def events(settings: Settings, follow: bool) -> None:
    """Show joins, suspicions, refutations, deaths and leaves, oldest first.

    As the first node of --endpoints that answers has seen them since it was started.
    """
    asyncio.run(_show(settings, resolve(settings), follow))


async def _show(settings: Settings, endpoints: Endpoints, follow: bool) -> None:
    wait_s = settings.timeout or ANSWER_WAIT_S
    reply = await _ask(endpoints, 0, 0, wait_s)
    _write(settings, reply)
    while follow:
        asked, after = reply.asked, reply.next
        reply = await _ask(endpoints, after, WAIT_MS, wait_s + WAIT_MS / 1000)
        if reply.asked != asked or reply.next < after:
            output.note(f"kv: note: {asked} does not answer any more; {reply.asked} goes on")
            reply = await _ask(endpoints, 0, 0, wait_s)
        elif reply.oldest > after + 1:
            output.note(f"kv: note: {reply.oldest - after - 1} events were missed")
            _write(settings, reply)
        else:
            _write(settings, reply)


async def _ask(endpoints: Endpoints, after: int, wait_ms: int, wait_s: float) -> EventsReply:
    body = encode_events(after, wait_ms)
    return decode_events_reply(await ask_first(endpoints, Kind.EVENTS, body, wait_s=wait_s))


def _write(settings: Settings, reply: EventsReply) -> None:
    for event in reply.events:
        if settings.format == "json":
            output.write_json(_json(event))
        else:
            output.line(_line(event))
    output.flush()


def _line(event: EventRow) -> str:
    by = f" by {event.accuser}" if event.accuser else ""
    detail = f": {event.detail}" if event.detail else ""
    kind = "found dead" if event.kind == "died" and by else event.kind
    what = f"{kind}{by}"
    return (
        f"{_time(event.wall_ms)}  {event.node:<6} {what} (incarnation {event.incarnation}){detail}"
    )


def _time(wall_ms: int) -> str:
    """By this machine's zone, to the millisecond."""
    moment = datetime.fromtimestamp(wall_ms / 1000).astimezone()
    return moment.strftime("%Y-%m-%d %H:%M:%S.") + f"{wall_ms % 1000:03}"


def _json(event: EventRow) -> dict[str, Any]:
    return {
        "number": event.number,
        "time_ms": event.wall_ms,
        "event": event.kind,
        "node": event.node,
        "incarnation": event.incarnation,
        "by": event.accuser,
        "detail": event.detail,
    }
