"""How long a node that was killed takes to serve again, over the size of its log.

The log is kept as long as is asked for: by default the engine is flushed long before, just so that
no restart takes long.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from bench.driver import running_worker
from bench.measure import tell
from bench.resources import look
from bench.scaling.outcome import Outcome
from bench.scaling.quiet import until_quiet
from bench.scaling.room import check_room, needed_bytes
from bench.stage import pids_of, standing
from bench.table import size as value_size
from kvstore.cli.launcher import cluster as clusters
from kvstore.cli.launcher.ready import wait_until_serving
from kvstore.cli.movement import size
from kvstore.cli.survey import ask
from kvstore.errors import KVError, Unavailable

if TYPE_CHECKING:
    from argparse import Namespace
    from pathlib import Path

    from elasticity.stage import Stage

    from bench.driver import Bencher
    from kvstore.cli.launcher.node import Node

VICTIM: Final = "n1"
MB: Final = 1_000_000
GB: Final = 1000 * MB
SERVES_S_MAX: Final = 30.0
"""With a gigabyte of log, or more."""
WAIT_S: Final = 600.0
POLL_S: Final = 0.02
ANSWER_S: Final = 1.0
HEADER: Final = ("log", "values", "of", "answers s", "serves s", "MB/s of log", "MiB at most")


@dataclass(frozen=True, slots=True)
class Row:
    """One restart."""

    log_bytes: int
    """Of the files."""
    keys: int
    value_bytes: int
    answers_s: float
    """From the start of the process until it answers."""
    serves_s: float
    """Until it has all that was committed by then, too, in every shard."""
    peak_bytes: int | None
    """The most memory that was resident until then."""

    def cells(self) -> tuple[str, ...]:
        """As :data:`HEADER` names them."""
        return (
            size(self.log_bytes),
            f"{self.keys:,}",
            value_size(self.value_bytes),
            f"{self.answers_s:.2f}",
            f"{self.serves_s:.2f}",
            f"{self.log_bytes / MB / self.serves_s:.0f}",
            "-" if self.peak_bytes is None else f"{self.peak_bytes / 2**20:.0f}",
        )

    def to_json(self) -> dict[str, Any]:
        """For the file."""
        return {name: getattr(self, name) for name in self.__slots__}


async def measure(asked: Namespace) -> Outcome:
    """Kill a node and start it again, some times with each size of the log.

    Raises:
        KVError: something could not be measured.
    """
    most = max(asked.points) * MB
    keys, room = most // asked.value_bytes, needed_bytes
    tell(check_room(room(asked.nodes, keys, asked.value_bytes, log_bytes=most)))
    rows: list[Row] = []
    async with (
        standing(asked.nodes, asked.shards, settings(most)) as stage,
        running_worker(stage.endpoints) as worker,
    ):
        written = 0
        for log_mb in sorted(asked.points):
            written = await _fill(worker, stage, written, log_mb * MB, asked.value_bytes)
            for _ in range(asked.runs):
                rows.append(await _restart(stage, written, asked.value_bytes))
                tell(f"  {size(rows[-1].log_bytes)} of log: serves in {rows[-1].serves_s:.2f} s")
    return Outcome(
        f"{VICTIM} of {asked.nodes} nodes with {asked.shards} shards is killed (SIGKILL), and "
        "started again while the others serve",
        HEADER,
        [row.cells() for row in rows],
        [row.to_json() for row in rows],
        [
            "answers: from the start of its process until it answers; serves: until it also has, "
            "in every shard, what was committed by then.",
            f"live_bytes_max is {size(log_bytes_max(most))} here (default 256 MiB); the files may "
            "be in the system's cache.",
        ],
        broken(rows),
    )


def log_bytes_max(most: int) -> int:
    """Never reached, so that nothing of the log is released."""
    return 2 * most + GB


def settings(most: int) -> str:
    """Of the nodes."""
    return f"[wal]\nlive_bytes_max = {log_bytes_max(most)}"


async def _fill(
    worker: Bencher, stage: Stage, written: int, log_bytes: int, value_bytes: int
) -> int:
    """Write keys from number ``written`` on until the log has that size; the next number."""
    victim = stage.nodes()[VICTIM]
    keys = max(written, log_bytes // value_bytes)
    tell(f"{keys - written:,} values of {value_size(value_bytes)} more")
    await worker.fill(keys, value_bytes, begin=written)
    await stage.until_applied()
    if log_bytes_of(victim.files.data_dir) < (keys * value_bytes):
        raise KVError(f"the log of {VICTIM} is shorter than what was written: it was released")
    return keys


def log_bytes_of(data_dir: Path) -> int:
    """What the segments of a node's log take on the disk, the one made in advance not counted."""
    return sum(path.stat().st_size for path in (data_dir / "wal").glob("*.wal"))


async def _restart(stage: Stage, keys: int, value_bytes: int) -> Row:
    await until_quiet(pids_of(stage))
    cluster = clusters.load(stage.directory / ".kv")
    node = cluster.node(VICTIM)
    node.kill()
    log_bytes = log_bytes_of(node.files.data_dir)
    began = time.monotonic()
    node.start()
    answers_s = await _until_answer(node, began)
    await wait_until_serving(cluster, node, timeout_s=WAIT_S, progress=lambda text: None)
    serves_s = time.monotonic() - began
    pid = pids_of(stage).get(VICTIM)
    peak = None if pid is None else look({VICTIM: pid}).peak_bytes[VICTIM]
    await stage.until_led()
    return Row(log_bytes, keys, value_bytes, answers_s, serves_s, peak)


async def _until_answer(node: Node, began: float) -> float:
    """Seconds from then on.

    Raises:
        StartupError: the node has ended, and says why.
        Unavailable: it does not answer.
    """
    while (waited_s := time.monotonic() - began) < WAIT_S:
        node.check_started()
        try:
            await ask(node.files.address, ANSWER_S)
        except Unavailable:
            await asyncio.sleep(POLL_S)
        else:
            return time.monotonic() - began
    raise Unavailable(f"{node.id} does not answer {waited_s:.0f} s after its start")


def broken(rows: list[Row]) -> list[str]:
    """A sentence for each restart that took too long."""
    return [
        f"with {size(row.log_bytes)} of log a restart took {row.serves_s:.1f} s, not under "
        f"{SERVES_S_MAX:g}"
        for row in rows
        if row.log_bytes >= GB and row.serves_s >= SERVES_S_MAX
    ]
