"""Load programs that count operations are made to take a time."""

from __future__ import annotations

import pytest
from bench.measured import LOAD, Cell, Run
from bench.peers.portions import Timing, between, operations_for, timed
from bench.resources import Look
from peers_scene import run_of


def test_each_of_those_in_flight_asks_as_often() -> None:
    assert operations_for(Cell("put", 256, 4), 1000) == 4 * 256
    assert operations_for(Cell("put", 256, 4), 10_000) == 39 * 256
    assert operations_for(Cell("put", 1, 1), 0.2) == 4


async def test_the_last_portion_takes_about_the_time_that_is_asked_for() -> None:
    asked: list[int] = []

    async def portion(operations: int) -> Run:
        asked.append(operations)
        return run_of(rate=500 if len(asked) == 1 else 1000)  # cold at first

    run = await timed(portion, Cell("put", 1, 1), seconds=5.0, warm_up_s=2.0)
    assert asked == [200, 1000, 5000]
    assert run.rate == 1000


def test_what_is_used_is_that_of_the_time_between() -> None:
    before = Look(10.0, 50.0, {"a": 1.0}, {"a": 100}, {"a": 7}, {"a": 9})
    after = Look(12.0, 54.0, {"a": 2.5}, {"a": 130}, {"a": 8}, {"a": 10})
    run = between(before, after, Timing(10, 2.0, run_of(10).latency), load_s=0.5)
    assert run.cpu_s == {"a": 1.5, LOAD: 0.5}
    assert (run.disk_bytes, run.memory_bytes, run.peak_bytes) == ({"a": 30}, {"a": 8}, {"a": 10})
    assert run.others_cores == pytest.approx(1.0)
    assert between(Look(1.0), Look(2.0), Timing(1, 1.0, run.latency), 0.0).others_cores is None
