"""``verify``: whether the replicas of every shard are equal."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import click

from kvstore.cli import output
from kvstore.cli.endpoints import resolve
from kvstore.cli.exits import Exit
from kvstore.cli.options import Command, Settings, whole_number
from kvstore.cli.verification import TIMEOUT_S_DEFAULT, verify_cluster

if TYPE_CHECKING:
    from kvstore.cli.verdict import ReplicaVerdict, ShardVerdict, Verification

NOTHING = "-"
HEADER = ("shard", "index", "node", "state", "checksum", "keys", "bytes")
_EXITS = {True: Exit.OK, False: Exit.CONDITION_FAILED, None: Exit.UNAVAILABLE}


@click.command(cls=Command)
@click.option("--shard", type=whole_number(at_least=0), help="Only this one.", metavar="NUMBER")
@click.pass_obj
def verify(settings: Settings, shard: int | None) -> int:
    """Compare the replicas of every shard by checksum, each at one applied index.

    Works while clients write. Ends with code 0 if all are equal, 4 if any differ, and 3 if
    some could not be compared within --timeout (30 seconds unless given).
    """
    endpoints = resolve(settings)
    timeout_s = settings.timeout or TIMEOUT_S_DEFAULT
    found = asyncio.run(verify_cluster(endpoints, timeout_s, shard))
    if settings.format == "json":
        output.write_json(found.to_json())
    else:
        _write(settings, found)
    for problem in found.problems():
        output.note(f"kv: {problem}")
    return _EXITS[found.is_equal]


def _write(settings: Settings, found: Verification) -> None:
    rows = [_row(shard, replica) for shard in found.shards for replica in shard.replicas]
    output.write_rows(settings.format, HEADER, rows)
    output.line("")
    output.line(found.summary())


def _row(shard: ShardVerdict, replica: ReplicaVerdict) -> list[str]:
    counted = replica.counted
    counts = [str(counted.keys), str(counted.bytes)] if counted else [NOTHING, NOTHING]
    checksum = replica.checksum or NOTHING
    return [str(shard.id), str(shard.index), replica.node, replica.state, checksum, *counts]
