"""``moves``: which replicas are on their way, and how far."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import click

from kvstore.cli import output
from kvstore.cli.conversation import ANSWER_WAIT_S
from kvstore.cli.endpoints import Endpoints, resolve
from kvstore.cli.movement import Movement, movements, size
from kvstore.cli.options import Command, Settings
from kvstore.cli.survey import survey_endpoints
from kvstore.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.progress import Progress, TaskID

    from kvstore.sharding.shard_map import ShardMap

POLL_S: Final = 0.2
QUIET_S: Final = 1.0
"""Nothing moves any more once nothing did for so long: between two moves there may be a gap."""
LINE_EVERY_S: Final = 1.0
"""Of a move that goes on in the same stage, without a terminal."""
HEADER: Final = ("shard", "move", "stage", "bytes", "of", "behind")


@click.command(cls=Command)
@click.option("-f", "--follow", is_flag=True, help="Go on until nothing moves, or Ctrl-C.")
@click.pass_obj
def moves(settings: Settings, follow: bool) -> None:
    """Show the replicas that are on their way, the meta group's too.

    A newcomer is waiting, starting, gets a snapshot and then the log behind it, and has its
    vote after switching. The bytes of a snapshot that is being read are an estimate.
    """
    endpoints = resolve(settings)
    wait_s = settings.timeout or ANSWER_WAIT_S
    if follow:
        with _shown(settings) as show:
            asyncio.run(_follow(endpoints, wait_s, show))
        return
    _shard_map, now = asyncio.run(_look(endpoints, wait_s))
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
    return survey.shard_map, movements(survey.shard_map, statuses)


async def _follow(
    endpoints: Endpoints, wait_s: float, show: Callable[[ShardMap, list[Movement]], None]
) -> None:
    """Look until nothing has moved for a while."""
    moved_at = time.monotonic()
    while True:
        shard_map, now = await _look(endpoints, wait_s)
        show(shard_map, now)
        if now:
            moved_at = time.monotonic()
        elif time.monotonic() - moved_at >= QUIET_S:
            return
        await asyncio.sleep(POLL_S)


def outcome(shard_map: ShardMap, move: Movement) -> str:
    """What has become of a move that is not under way any more."""
    held = {replica.node for replica in shard_map.members(move.group)}
    has_come = move.add is None or move.add in held
    is_gone = move.remove is None or move.remove not in held
    return "done" if has_come and is_gone else "given up"


# -- without a terminal -------------------------------------------------------------------------


@dataclass(slots=True)
class Lines:
    """One line for each move that begins, comes to another stage, goes on, or ends."""

    write: Callable[[Movement, str], None]
    """Given a move and its stage."""
    clock: Callable[[], float] = time.monotonic
    _last: dict[tuple[int, str], tuple[Movement, float]] = field(default_factory=dict)

    def show(self, shard_map: ShardMap, now: Sequence[Movement]) -> None:
        """Write what has changed since the last time."""
        current = {(move.group, move.path): move for move in now}
        for key in [key for key in self._last if key not in current]:
            move, _ = self._last.pop(key)
            self.write(move, outcome(shard_map, move))
        for key, move in current.items():
            before, at = self._last.get(key, (None, 0.0))
            is_new = before is None or before.stage != move.stage
            if is_new or (before != move and self.clock() - at >= LINE_EVERY_S):
                self._last[key] = move, self.clock()
                self.write(move, move.stage)


def line_of(move: Movement, stage: str) -> str:
    """``shard 3  n2→n4  snapshot  1.2 MB of 5.0 MB``."""
    sizes = f"  {size(move.bytes_sent)} of {size(move.bytes_total)}"
    has_sizes = bool(move.bytes_total) and stage == move.stage
    return f"{move.name}  {move.path}  {stage}" + (sizes if has_sizes else "")


def _write_json(move: Movement, stage: str) -> None:
    output.write_json(move.to_json() | {"stage": stage})
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
    """A bar for each move; one that has ended leaves a line above them."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._shown: dict[tuple[int, str], tuple[Movement, TaskID]] = {}

    def show(self, shard_map: ShardMap, now: Sequence[Movement]) -> None:
        """Move the bars to where the moves are."""
        current = {(move.group, move.path): move for move in now}
        for key in [key for key in self._shown if key not in current]:
            move, bar = self._shown.pop(key)
            self._bars.remove_task(bar)
            self._bars.console.print(line_of(move, outcome(shard_map, move)), markup=False)
        for key, move in current.items():
            if key not in self._shown:
                title = f"{move.name}  {move.path}"
                bar = self._bars.add_task(title, total=None, stage=move.stage)
            else:
                bar = self._shown[key][1]
            self._shown[key] = move, bar
            self._bars.update(
                bar, completed=move.bytes_sent, total=move.bytes_total, stage=move.stage
            )


def _row(move: Movement) -> list[str]:
    return [
        move.name.removeprefix("shard "),
        move.path,
        move.stage,
        size(move.bytes_sent),
        size(move.bytes_total),
        "-" if move.behind is None else str(move.behind),
    ]
