"""Several lives of one log: each ends in the middle of a write, and none loses what it knew."""

from __future__ import annotations

import copy
import random
import shutil
from pathlib import Path

import pytest
from torture_log import Workload, append, open_log, recover

from kvstore.storage.scan import SECTOR_BYTES


@pytest.mark.parametrize("seed", range(8))
async def test_a_log_goes_on_after_every_crash(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    live, workload = tmp_path / "0", Workload(seed)
    for life in range(5):
        wal, _ = await open_log(live)
        for _ in range(rng.randint(0, 25)):
            await append(wal, workload.batch())
        before = Path(shutil.copytree(live, tmp_path / f"before{life}"))
        unfinished = copy.deepcopy(workload)
        await append(wal, unfinished.batch())
        after = Path(shutil.copytree(live, tmp_path / str(life + 1)))
        await wal.close()
        if tear(before, after, rng):
            workload = unfinished
        live = after
        tried = Path(shutil.copytree(live, tmp_path / f"try{life}"))
        assert await recover(tried) == workload.state()
        assert await recover(tried) == workload.state()


def tear(before: Path, after: Path, rng: random.Random) -> bool:
    """Take some sectors of the last write back; whether it is whole all the same."""
    last = max(after.glob("*.wal"))
    if not (before / last.name).exists():
        return True
    old, new = (before / last.name).read_bytes(), bytearray((after / last.name).read_bytes())
    step = SECTOR_BYTES
    written = [at for at in range(0, len(new), step) if old[at : at + step] != new[at : at + step]]
    lost = rng.sample(written, rng.randint(0, len(written)))
    for at in lost:
        new[at : at + step] = old[at : at + step]
    last.write_bytes(new)
    return not lost
