"""How fast a large replica comes to a new node, and what that costs the clients meanwhile.

One shard holds everything; a fourth node joins, a follower is drained, so its replica moves there
as one snapshot. A light load goes on all the while, from another process, at a fixed pace.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

from elasticity.driver import running_load
from elasticity.samples import Summary

from bench.driver import running_worker
from bench.measure import tell
from bench.scaling.arrival import BEST_OF_S, Arrival, Sample, arrival_of
from bench.scaling.outcome import Outcome
from bench.scaling.quiet import until_quiet
from bench.scaling.room import check_room, needed_bytes
from bench.stage import pids_of, standing
from bench.table import significant
from bench.table import size as value_size
from kvstore.cli.movement import movements, size
from kvstore.config.settings import ShardingConfig
from kvstore.errors import KVError, Unavailable
from kvstore.ids import GroupId

if TYPE_CHECKING:
    from argparse import Namespace

    from elasticity.driver import Driver
    from elasticity.stage import Stage

SHARDS: Final = 1
GROUP: Final = GroupId(1)
"""Of the only shard."""
NODES: Final = 3
NEWCOMER: Final = "n4"
LIGHT_KEYS: Final = 5000
MB: Final = 1_000_000
GB: Final = 1000 * MB
POLL_S: Final = 0.1
WAIT_S: Final = 900.0
FASTER_THAN_MB: Final = 50.0
SLOWDOWN_MAX: Final = 2.0
HEADER: Final = (
    *("bound", "bytes", "sent s", "MB/s", "best", "in force s", "member s", "p99 before", "during"),
    *("times", "after"),
)


@dataclass(frozen=True, slots=True)
class Row:
    """One move."""

    bound_bytes_per_s: int
    """As configured."""
    is_default: bool
    arrival: Arrival
    before: Summary
    during: Summary
    after: Summary

    @property
    def slowdown(self) -> float:
        """The tail while it moved, in the tail before."""
        return self.during.p99_ms / max(self.before.p99_ms, 1e-9)

    def cells(self) -> tuple[str, ...]:
        """As :data:`HEADER` names them."""
        bound = f"{size(self.bound_bytes_per_s)}/s" + (" (default)" if self.is_default else "")
        arrival = self.arrival
        return (
            bound,
            size(arrival.size_bytes),
            f"{arrival.sent_s:.1f}",
            *(f"{rate / MB:.1f}" for rate in (arrival.bytes_per_s, arrival.best_bytes_per_s)),
            f"{arrival.in_force_s:.1f}",
            f"{arrival.member_s:.1f}",
            *(significant(part.p99_ms) for part in (self.before, self.during)),
            f"{self.slowdown:.1f}",
            significant(self.after.p99_ms),
        )

    def to_json(self) -> dict[str, Any]:
        """For the file."""
        return {
            "bound_bytes_per_s": self.bound_bytes_per_s,
            "is_default": self.is_default,
            **self.arrival.to_json(),
            "slowdown": self.slowdown,
            "before": self.before.to_json(),
            "during": self.during.to_json(),
            "after": self.after.to_json(),
        }


async def measure(asked: Namespace) -> Outcome:
    """With the default bound of what moves, and with a higher one.

    Raises:
        KVError: something could not be measured, or an operation has failed.
    """
    keys = asked.data_mb * MB // asked.value_bytes
    tell(check_room(needed_bytes(NODES + 1, 2 * keys, asked.value_bytes)))
    default = ShardingConfig().move_bytes_per_s_max
    rows = []
    for bound in dict.fromkeys((default, *(mb * MB for mb in asked.points))):
        tell(f"at most {size(bound)}/s")
        rows.append(await _measure(asked, keys, bound, is_default=bound == default))
    return Outcome(
        f"{size(keys * asked.value_bytes)} in values of {value_size(asked.value_bytes)}, in one "
        f"shard, go to a new node; {asked.rate:g} puts and gets a second meanwhile",
        HEADER,
        [row.cells() for row in rows],
        [row.to_json() for row in rows],
        [
            "bound: sharding.move_bytes_per_s_max; a node sends less while its clients wait longer "
            "than usual.",
            "sent: from the first byte to the last, as acknowledged; MB/s: of that; best: over the "
            f"quickest {BEST_OF_S:g} s; in force, member: from the order until the newcomer serves "
            "from it, and has taken the place of the other.",
            f"p99 in ms, of {asked.seconds:g} s before, all the while until member, and as long "
            "after it; four nodes and both loads on one machine.",
        ],
        broken(rows),
    )


async def _measure(asked: Namespace, keys: int, bound: int, *, is_default: bool) -> Row:
    settings = f"[sharding]\nmove_bytes_per_s_max = {bound}"
    async with standing(NODES, SHARDS, settings) as stage:
        async with running_worker(stage.endpoints) as worker:
            await worker.fill(keys, asked.value_bytes, connections=4)
        tell(f"  {keys:,} keys written")
        await stage.kv("cluster", "add")
        async with running_load(stage.endpoints, LIGHT_KEYS, asked.rate) as load:
            await load.ask("fill")
            await until_quiet(pids_of(stage))
            row = await _move(asked, stage, load, bound, is_default=is_default)
    tell(f"  {row.arrival.bytes_per_s / MB:.1f} MB/s, p99 {row.slowdown:.1f} times as high")
    return row


async def _move(
    asked: Namespace, stage: Stage, load: Driver, bound: int, *, is_default: bool
) -> Row:
    shard_map = await stage.shard_map()
    leaver = shard_map.members(GROUP)[-1].node
    if any(replica.node == NEWCOMER for replica in shard_map.members(GROUP)):
        raise KVError(f"{NEWCOMER} has the replica already")
    begun_at: float = (await load.ask("go"))["at"]
    await asyncio.sleep(asked.seconds)
    ordered_at = time.monotonic()
    arrival = await _drained(stage, leaver)
    arrived_at = time.monotonic()
    await asyncio.sleep(asked.seconds)
    times = (begun_at, ordered_at, arrived_at, time.monotonic())
    before, during, after = [await load.window(*span) for span in pairwise(times)]
    for part in (before, during, after):
        if part.errors:
            raise KVError(f"callers got errors: {part.errors}")
    await load.ask("rest")
    return Row(bound, is_default, arrival, before, during, after)


async def _drained(stage: Stage, leaver: str) -> Arrival:
    """Order it, and watch until the newcomer has its place."""
    began = time.monotonic()
    ordering = asyncio.create_task(stage.kv("node", "drain", leaver))
    samples: list[Sample] = []
    try:
        while not samples or not samples[-1].is_member:
            if time.monotonic() - began > WAIT_S:
                raise Unavailable(f"{leaver} still has its replica after {WAIT_S:g} s")
            if ordering.done():
                await ordering
            samples.append(await _look(stage, time.monotonic() - began))
            await asyncio.sleep(POLL_S)
        await ordering
    finally:
        ordering.cancel()
        with suppress(asyncio.CancelledError, KVError):
            await ordering
    return arrival_of(samples)


async def _look(stage: Stage, at_s: float) -> Sample:
    shard_map = await stage.shard_map()
    statuses = [said.status for said in await stage.store.node_statuses() if said.status]
    moves = (move for move in movements(shard_map, statuses) if move.group == GROUP)
    move = next(moves, None)
    is_member = move is None and any(
        replica.node == NEWCOMER for replica in shard_map.members(GROUP)
    )
    if move is None:
        return Sample(at_s, "", 0, 0, is_member=is_member)
    return Sample(at_s, move.stage, move.bytes_sent, move.bytes_total or 0)


def broken(rows: list[Row]) -> list[str]:
    """A sentence for each promise that was not kept, of what is large enough to tell."""
    large = [row for row in rows if row.arrival.size_bytes >= GB]
    said = [
        f"at most {size(row.bound_bytes_per_s)}/s: p99 was {row.slowdown:.1f} times as high, over "
        f"{SLOWDOWN_MAX:g}"
        for row in large
        if row.slowdown > SLOWDOWN_MAX
    ]
    rates = [row.arrival.bytes_per_s / MB for row in large if not row.is_default]
    if rates and max(rates) <= FASTER_THAN_MB:
        said.append(f"{max(rates):.1f} MB/s at most, not over {FASTER_THAN_MB:g}")
    return said
