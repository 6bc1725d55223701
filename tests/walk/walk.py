"""The whole walk: grounds, and the cells that are tried on each."""

from __future__ import annotations

import asyncio
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from walk import kills, newcomers, removals, table
from walk.cell import Cell, Result, ground_on, look_at_disks, run_cell
from walk.joining import join
from walk.whole import Found

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MARK = ".walk"
"""The file that says that a directory may be emptied."""


class Unusable(Exception):
    """The directory holds something that a walk did not make, or cannot be written."""


@dataclass(frozen=True)
class Part:
    """Cells that are tried on one cluster, one after the other."""

    name: str
    cells: list[Cell]
    has_links: bool = False
    joiners: int = 1
    """That are members before the first cell."""

    @property
    def disks(self) -> str:
        """Under this name is told what was left on disks after all of its cells."""
        return f"{self.name}-disks"


def parts() -> list[Part]:
    cut_off = [*newcomers.partition_cells(), *removals.cut_off_cells()]
    return [
        Part("kills", kills.cells()),
        Part("meta", kills.meta_cells()),
        Part("cut-off", cut_off, has_links=True, joiners=0),
        Part("disks", newcomers.disk_cells(), joiners=0),
        Part("old-replicas", newcomers.old_replica_cells(), joiners=0),
        Part("removals", removals.cells(), joiners=0),
    ]


async def walk(
    directory: Path, seed: int, *, only: str | tuple[str, ...] = "", say: Callable[[str], None]
) -> list[Result]:
    """Try all cells, or those whose names begin with ``only``, or with one of these.

    Raises:
        Unusable: says why ``directory`` is no place for a walk.
        NoCompiler: disks cannot be slowed here.
    """
    await asyncio.to_thread(_make_empty, directory)
    results: list[Result] = []
    for part in parts():
        is_all = only == part.disks
        cells = [cell for cell in part.cells if is_all or cell.name.startswith(only)]
        if cells:
            results += await _try_all(
                directory / part.name, f"{seed}/{part.name}", part, cells, say
            )
    return results


async def _try_all(
    directory: Path, seed: str, part: Part, cells: list[Cell], say: Callable[[str], None]
) -> list[Result]:
    results = []
    async with ground_on(directory, seed, say, has_links=part.has_links) as ground:
        for _ in range(part.joiners):
            await join(ground)
        for cell in cells:
            results.append(await run_cell(ground, cell))
            say(table.line(results[-1]))
        problems = await look_at_disks(ground)
    if problems:
        results.append(Result(part.disks, "", Found(problems=problems), 0.0))
        say(table.line(results[-1]))
    return results


def _make_empty(directory: Path) -> None:
    try:
        if directory.exists() and any(directory.iterdir()) and not (directory / MARK).exists():
            raise Unusable(f"{directory} holds other things: name a new directory")
        if directory.exists():
            shutil.rmtree(directory)
        directory.mkdir(parents=True)
        (directory / MARK).touch()
    except OSError as error:
        raise Unusable(f"{directory} cannot be used: {error.strerror}") from None
