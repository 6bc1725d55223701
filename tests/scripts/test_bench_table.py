"""The table shows the median of the runs, and nothing that was not measured."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from bench.measure import Plan
from bench.measured import LOAD, Cell
from bench.report import report
from bench.summary import Spread
from bench.table import HEADER, line, notes, progress, significant, size, title
from bench_stand_ins import measured, run

PUT = Cell("put", 256, 4)
RUNS = (run(1000, ms=4.0), run(3000, ms=8.0), run(2000, ms=2.0))
BARE: dict[str, Any] = {
    name: {}
    for name in ("cpu_s", "disk_bytes", "memory_bytes", "peak_bytes", "stall_ms", "late_ms")
}


def shown(*args: object) -> dict[str, str]:
    return dict(zip(HEADER, line(measured(*args)), strict=True))  # type: ignore[arg-type]


def test_a_line_shows_medians() -> None:
    assert shown(PUT, *RUNS) == {
        "load": "put",
        "in flight": "256",
        "conns": "4",
        "value": "256 B",
        "ops/s": "1,000",
        "min..max": "500..1,500",
        "p50 ms": "4.02",
        "p99": "4.02",
        "p99.9": "4.02",
        "server µs/op": "30.0",
        "client µs/op": "5.00",
        "disk B/B": "3.00",
        "MiB": "90",
        "stall ms": "7",
    }


def test_of_stalls_the_longest_of_all_counts() -> None:
    runs = (run(), run(stall_ms={"n1": 31, "n2": 4}, late_ms={"n1": 90}), run())
    assert shown(PUT, *runs)["stall ms"] == "31"
    assert any("up to 90 ms" in note for note in notes([measured(PUT, *runs)]))
    assert shown(PUT, run(), run(stall_ms={}))["stall ms"] == "-"


def test_what_is_not_known_is_left_out() -> None:
    remote = run(others_cores=None, **{**BARE, "cpu_s": {LOAD: 0.5}})
    row = shown(PUT, remote)
    assert row["client µs/op"] == "500"
    assert {row[name] for name in ("server µs/op", "disk B/B", "MiB", "stall ms")} == {"-"}
    assert not any("MiB" in note for note in notes([measured(PUT, remote)]))
    assert shown(PUT, run(others_cores=None, **BARE))["client µs/op"] == "-"


def test_disk_is_per_byte_that_was_put() -> None:
    assert shown(Cell("get", 1, 1))["disk B/B"] == "-"
    assert shown(Cell("cas", 1, 1))["disk B/B"] == "-"
    assert shown(Cell("ycsb-a", 1, 1))["disk B/B"] == "12.0"
    assert shown(Cell("put", 1, 1, value_bytes=528))["disk B/B"] == "3.00"


def test_pace_and_outcomes_are_named() -> None:
    swaps = run(counts={"swapped": 30, "overtaken": 10})
    assert shown(Cell("cas", 64, 4), swaps)["load"] == "cas (75 % swapped, 25 % overtaken)"
    paced = measured(Cell("put", 256, 4, rate=2000.0))
    assert line(paced)[0] == "put at 2,000/s"
    assert any("due" in note for note in notes([paced]))
    assert not any("due" in note for note in notes([measured(PUT)]))


def test_notes_say_what_disturbed() -> None:
    said = "\n".join(notes([measured(PUT, run(), run(others_cores=1.5))]))
    assert "Other programs used 0.2 to 1.5 cores" in said
    assert "never was over 100" in said


def test_progress_and_title() -> None:
    assert progress(measured(PUT)) == "500/s, p50 4.02 ms, p99 4.02 ms, server 60.0 µs/op"
    assert title(Plan((PUT,), runs=1)).startswith("3 nodes with 4 shards; keys of 16 B; 1 run of")
    assert "elsewhere:1" in title(Plan((PUT,), endpoints="elsewhere:1"))


def test_spread() -> None:
    assert Spread.of([3.0, 1.0, 10.0]) == Spread(3.0, 1.0, 10.0)


@pytest.mark.parametrize(
    ("figure", "text"), [(0.1234, "0.12"), (12.34, "12.3"), (1234.5, "1,234"), (99.96, "100.0")]
)
def test_digits(figure: float, text: str) -> None:
    assert significant(figure) == text


def test_sizes() -> None:
    assert [size(n) for n in (16, 256, 4096, 65_536)] == ["16 B", "256 B", "4 KiB", "64 KiB"]


def test_the_report_holds_every_run() -> None:
    plan = Plan((PUT,), nodes=5)
    at = datetime(2026, 1, 2, tzinfo=UTC)
    said = json.loads(json.dumps(report({"cores": 2}, plan, [measured(PUT, *RUNS)], at)))
    assert said["machine"] == {"cores": 2}
    assert said["plan"]["nodes"] == 5
    (cell,) = said["cells"]
    assert cell["cell"]["operation"] == "put"
    assert cell["rate"] == {"median": 1000.0, "min": 500.0, "max": 1500.0}
    assert cell["server_us"]["median"] == pytest.approx(30.0)
    assert [each["operations"] for each in cell["runs"]] == [1000, 3000, 2000]
    assert sum(cell["runs"][0]["latency"].values()) == 1000
