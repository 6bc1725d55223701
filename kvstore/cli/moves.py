"""``moves``: which replicas are on their way or are to be, how far, and what holds them up."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

import click

from kvstore.cli import output
from kvstore.cli.conversation import ANSWER_WAIT_S
from kvstore.cli.endpoints import Endpoints, resolve
from kvstore.cli.members import duration
from kvstore.cli.movement import Movement, size
from kvstore.cli.options import Command, Settings
from kvstore.cli.outlook import WAITING, Outlook
from kvstore.cli.pace import Paces, has_pace
from kvstore.cli.survey import survey_endpoints
from kvstore.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.progress import Progress, TaskID

    from kvstore.ids import GroupId
    from kvstore.sharding.shard_map import ShardMap

POLL_S: Final = 0.2
QUIET_S: Final = 1.0
"""Nothing moves any more once nothing did, or was to, for so long: whoever has just joined or got
another weight is noticed a moment later."""
PACE_S: Final = 0.5
"""From one look to the next, to see how fast bytes come."""
LINE_EVERY_S: Final = 1.0
"""Of a move that goes on in the same stage, without a terminal."""
DONE: Final = "done"
WAITING_BARS: Final = 4
"""Moves that have not begun and are shown one by one on a terminal; of more, how many."""
HEADER: Final = ("shard", "move", "stage", "bytes", "of", "behind", "eta")


@click.command(cls=Command)
@click.option(
    "-f", "--follow", is_flag=True, help="Go on until nothing moves or waits to, or Ctrl-C."
)
@click.pass_obj
def moves(settings: Settings, follow: bool) -> None:
    """Show the replicas that are on their way, the meta group's too, and then those that wait.

    One that waits has not begun: it waits for its turn, or for what is named. A newcomer is
    waiting, starting, gets a snapshot and then the log behind it, and has its vote after
    switching. The bytes of a snapshot that is being read are an estimate, and so is the time
    that is left (eta), by how fast bytes have come of late.
    """
    endpoints = resolve(settings)
    wait_s = settings.timeout or ANSWER_WAIT_S
    if follow:
        with _shown(settings) as show:
            asyncio.run(_follow(endpoints, wait_s, show))
        return
    now = asyncio.run(_look_for_pace(endpoints, wait_s))
    if settings.format == "json":
        output.write_json({"moves": [move.to_json() for move in now]})
    elif now:
        output.write_rows(settings.format, HEADER, [_row(move) for move in now])
    else:
        output.line("nothing moves")


async def _look(endpoints: Endpoints, wait_s: float) -> tuple[ShardMap, list[Movement]]:
    survey = await survey_endpoints(endpoints, wait_s)
    if survey.shard_map is None or not survey.answers:
        raise survey.refusal or Unavailable(f"no node answers at {endpoints}")
    statuses = [answer.status for answer in survey.answers.values()]
    return survey.shard_map, Outlook(survey.shard_map, statuses).moves()


async def _look_for_pace(endpoints: Endpoints, wait_s: float) -> list[Movement]:
    """Look twice where bytes come, for one look does not tell how fast."""
    paces = Paces()
    _, now = await _look(endpoints, wait_s)
    timed = paces.timed(now, time.monotonic())
    if any(map(has_pace, now)):
        await asyncio.sleep(PACE_S)
        _, now = await _look(endpoints, wait_s)
        timed = paces.timed(now, time.monotonic())
    return timed


async def _follow(
    endpoints: Endpoints, wait_s: float, show: Callable[[ShardMap, list[Movement]], None]
) -> None:
    """Look until nothing has moved, or was to move, for a while.

    Whoever follows wants to see the end of an outage too; only at first somebody must answer.
    """
    paces = Paces()
    moved_at = time.monotonic()
    has_answered, is_told = False, False
    while True:
        try:
            shard_map, now = await _look(endpoints, wait_s)
        except Unavailable as error:
            if not has_answered:
                raise
            if not is_told:
                output.note(f"kv: note: {error.message}; waiting for one that does")
            is_told, moved_at = True, time.monotonic()
        else:
            has_answered, is_told = True, False
            show(shard_map, paces.timed(now, time.monotonic()))
            if now:
                moved_at = time.monotonic()
            elif time.monotonic() - moved_at >= QUIET_S:
                return
        await asyncio.sleep(POLL_S)


_Key = tuple["GroupId", str]


def _by_key(now: Sequence[Movement]) -> dict[_Key, Movement]:
    """What goes back, and is to come again, goes back first."""
    found: dict[_Key, Movement] = {}
    for move in now:
        found.setdefault(move.key, move)
    return found


def has_ended(shard_map: ShardMap, move: Movement) -> bool:
    """Whether one that is not there any more is worth a word: not if it is only wanted no more."""
    return move.is_begun or outcome(shard_map, move) == DONE


def outcome(shard_map: ShardMap, move: Movement) -> str:
    """What has become of a move that is not under way any more."""
    held = {replica.node for replica in shard_map.members(move.group)}
    has_come = move.add is None or move.add in held
    is_gone = move.remove is None or move.remove not in held
    return DONE if has_come and is_gone else "given up"


# -- without a terminal -------------------------------------------------------------------------


@dataclass(slots=True)
class Lines:
    """One line for each move that begins, comes to another stage, goes on, or ends."""

    write: Callable[[Movement, str], None]
    """Given a move and its stage."""
    clock: Callable[[], float] = time.monotonic
    _last: dict[_Key, tuple[Movement, float]] = field(default_factory=dict)

    def show(self, shard_map: ShardMap, now: Sequence[Movement]) -> None:
        """Write what has changed since the last time."""
        current = _by_key(now)
        for key in [key for key in self._last if key not in current]:
            move, _ = self._last.pop(key)
            if has_ended(shard_map, move):
                self.write(move, outcome(shard_map, move))
        for key, move in current.items():
            before, at = self._last.get(key, (None, 0.0))
            is_new = before is None or (before.stage, before.why) != (move.stage, move.why)
            goes_on = before is None or replace(before, eta_s=move.eta_s) != move
            if is_new or (goes_on and self.clock() - at >= LINE_EVERY_S):
                self._last[key] = move, self.clock()
                self.write(move, move.stage)


def line_of(move: Movement, stage: str) -> str:
    """``shard 3  n2→n4  snapshot  1.2 MB of 5.0 MB  8.2s left``."""
    parts = [move.name, move.path, stage]
    if stage == move.stage:
        parts[-1] = stage_of(move)
        if move.bytes_total and move.is_begun:
            parts.append(f"{size(move.bytes_sent)} of {size(move.bytes_total)}")
        if move.eta_s is not None:
            parts.append(f"{duration(move.eta_s)} left")
    return "  ".join(parts)


def stage_of(move: Movement) -> str:
    """With what holds it up: ``waiting (n4 does not answer)``."""
    return f"{move.stage} ({move.why})" if move.why else move.stage


def _write_json(move: Movement, stage: str) -> None:
    after = {} if stage == move.stage else {"stage": stage, "why": None, "eta_s": None}
    output.write_json(move.to_json() | after)
    output.flush()


def _write_line(move: Movement, stage: str) -> None:
    output.line(line_of(move, stage))
    output.flush()


# -- on a terminal --------------------------------------------------------------------------------


@contextmanager
def _shown(settings: Settings) -> Iterator[Callable[[ShardMap, list[Movement]], None]]:
    """Shows what moves, again and again, as suits whoever looks."""
    if settings.format == "json":
        yield Lines(_write_json).show
    elif not sys.stdout.isatty():
        yield Lines(_write_line).show
        output.line("nothing moves")
    else:
        with _bars() as bars:
            yield Bars(bars).show
        output.line("nothing moves")


def _bars() -> Progress:
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    return Progress(
        TextColumn("{task.description}"),
        TextColumn("{task.fields[stage]:<10}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )


class Bars:
    """A bar for each move; one that has ended leaves a line above them.

    Of many that have not begun only the first have one, and one tells how many more there are.
    """

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._shown: dict[_Key, tuple[Movement, TaskID]] = {}
        self._more: TaskID | None = None

    def show(self, shard_map: ShardMap, now: Sequence[Movement]) -> None:
        """Move the bars to where the moves are."""
        current = _by_key(now)
        waiting = [key for key, move in current.items() if not move.is_begun]
        for key in waiting[WAITING_BARS:]:
            del current[key]
        for key in [key for key in self._shown if key not in current]:
            move, bar = self._shown.pop(key)
            self._bars.remove_task(bar)
            if key not in waiting and has_ended(shard_map, move):
                self._bars.console.print(line_of(move, outcome(shard_map, move)), markup=False)
        for key, move in current.items():
            stage = stage_of(move)
            if key not in self._shown:
                title = f"{move.name}  {move.path}"
                bar = self._bars.add_task(title, total=None, stage=stage)
            else:
                bar = self._shown[key][1]
            self._shown[key] = move, bar
            self._bars.update(bar, completed=move.bytes_sent, total=move.bytes_total, stage=stage)
        self._count(len(waiting) - WAITING_BARS)

    def _count(self, more: int) -> None:
        """Those that wait without a bar, below the others."""
        if self._more is not None:
            self._bars.remove_task(self._more)
            self._more = None
        if more > 0:
            self._more = self._bars.add_task(f"{more} more", total=None, stage=WAITING)


def _row(move: Movement) -> list[str]:
    return [
        move.name.removeprefix("shard "),
        move.path,
        stage_of(move),
        size(move.bytes_sent),
        size(move.bytes_total),
        "-" if move.behind is None else str(move.behind),
        "-" if move.eta_s is None else duration(move.eta_s),
    ]
