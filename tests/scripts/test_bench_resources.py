"""What a process uses is seen, to better than a tick of the clock."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from bench.resources import Look, cpu_s, is_told, look, others_cores

from kvstore.errors import Unavailable

pytestmark = pytest.mark.skipif(not is_told(), reason="this system does not tell")


def test_processor_time_is_that_of_the_process() -> None:
    before, own_before = cpu_s(os.getpid()), time.process_time()
    while time.process_time() - own_before < 0.005:
        pass
    used, own_used = cpu_s(os.getpid()) - before, time.process_time() - own_before
    assert 0.005 < used < own_used + 1.0


def file_system_of(path: Path) -> str:
    """Its type."""
    rows = [row.split() for row in Path("/proc/self/mounts").read_text().splitlines()]
    mounts = [(row[1], row[2]) for row in rows if path.resolve().is_relative_to(row[1])]
    return max(mounts, key=lambda mount: len(mount[0]))[1]


def test_what_is_written_and_held_is_seen(tmp_path: Path) -> None:
    pids = {"we": os.getpid()}
    before = look(pids)
    held = b"\1" * (16 << 20)
    with (tmp_path / "file").open("wb") as file:
        file.write(held)
        file.flush()
        os.fsync(file.fileno())
    after = look(pids)
    assert after.peak_bytes["we"] >= after.memory_bytes["we"] > len(held)
    if file_system_of(tmp_path) == "tmpfs":
        pytest.skip("NOT TRIED: what is written to a tmpfs is written to no disk")
    assert after.disk_bytes["we"] - before.disk_bytes["we"] >= len(held)


def test_one_that_has_ended_is_named() -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    with pytest.raises(Unavailable, match=rf"n2 \(process {ended.pid}\) has ended"):
        look({"n1": os.getpid(), "n2": ended.pid})


def test_nothing_is_seen_of_nobody() -> None:
    assert look({}).cpu_s == {}


def test_others_use_what_is_left() -> None:
    before = Look(10.0, busy_s=100.0, cpu_s={"n1": 1.0, "load": 2.0})
    after = Look(12.0, busy_s=103.0, cpu_s={"n1": 1.5, "load": 3.0})
    assert others_cores(before, after) == pytest.approx(0.75)
