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
from kvstore.errors import Unavailable
from kvstore.wire.kinds import Kind
from kvstore.wire.membership import EventsRequest, decode_events_reply, encode_events

if TYPE_CHECKING:
    from kvstore.cli.asking import Answer
    from kvstore.wire.membership import EventRow, EventsReply

WAIT_MS: Final = 2000
"""How long one question of a follower waits for news."""
RETRY_S: Final = 0.5


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
    answer = await ask_first(endpoints, Kind.EVENTS, _question(0, 0, 0), wait_s=wait_s)
    reply = decode_events_reply(answer.body)
    _write(settings, reply.events)
    shown_ms = 0
    while follow:
        last = reply
        shown_ms = max([shown_ms, *(event.wall_ms for event in reply.events)])
        question = _question(last.next, WAIT_MS, last.stream)
        answer = await _ask_until_answered(endpoints, question, wait_s, answer.address)
        reply = decode_events_reply(answer.body)
        if reply.stream == last.stream:
            if reply.oldest > last.next + 1:
                output.note(f"kv: note: {reply.oldest - last.next - 1} events were missed")
            _write(settings, reply.events)
        else:
            output.note(f"kv: note: {_change(last, reply)}")
            is_another = reply.asked != last.asked
            # What another node has seen of old was shown already, as the last one saw it.
            _write(settings, [e for e in reply.events if not is_another or e.wall_ms > shown_ms])


async def _ask_until_answered(
    endpoints: Endpoints, question: bytes, wait_s: float, before: str
) -> Answer:
    """Whoever follows wants to see the end of an outage too."""
    is_told = False
    while True:
        try:
            return await ask_first(
                endpoints,
                Kind.EVENTS,
                question,
                wait_s=wait_s + WAIT_MS / 1000,
                before=before,
            )
        except Unavailable as error:
            if not is_told:
                is_told = True
                output.note(f"kv: note: {error.message}; waiting for one that does")
            await asyncio.sleep(RETRY_S)


def _question(after: int, wait_ms: int, stream: int) -> bytes:
    return encode_events(EventsRequest(after, wait_ms, stream))


def _change(last: EventsReply, now: EventsReply) -> str:
    if now.asked == last.asked:
        return f"{now.asked} was restarted"
    return f"{last.asked} does not answer; {now.asked} goes on, as it saw things"


def _write(settings: Settings, events: list[EventRow]) -> None:
    for event in events:
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
