"""What was looked at is reckoned rightly, and a promise that is not kept is said."""

from __future__ import annotations

import json
import os
import socket
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
from bench.measured import LOAD, Cell
from bench.scaling import keys, restart, snapshot
from bench.scaling.arrival import Sample, arrival_of
from bench.scaling.clients import Look, growth, sockets
from bench.scaling.options import SUBJECTS, how, options
from bench.scaling.outcome import Outcome
from bench.scaling.room import check_room, needed_bytes
from bench.scaling.sweep import HEADER, rows_of
from bench_stand_ins import measured, run

from kvstore.errors import DiskFull, KVError, Unavailable

if TYPE_CHECKING:
    from pathlib import Path

GB = 10**9
PUT, GET = Cell("put", 256, 4), Cell("get", 256, 4)


# -- over shards, nodes, values -------------------------------------------------------------------


def test_rows_stand_by_load_and_are_compared_with_the_first() -> None:
    found = {
        ("1", PUT): [measured(PUT, run(1000)), measured(PUT, run(3000)), measured(PUT, run(2000))],
        ("1", GET): [measured(GET, run(5000))],
        ("8", PUT): [measured(PUT, run(1000))],
        ("8", GET): [measured(GET, run(10_000))],
    }
    rows = rows_of(found, lambda cell: cell.operation)
    assert [(row.point, row.measured.cell.operation, row.times_first) for row in rows] == [
        *(("1", "put", 1.0), ("8", "put", 0.5), ("1", "get", 1.0), ("8", "get", 2.0)),
    ]
    shown = dict(zip(("shards", *HEADER), rows[0].cells(), strict=True))
    assert (shown["ops/s"], shown["min..max"], shown["MB/s"]) == ("1,000", "500..1,500", "0.26")
    assert json.loads(json.dumps(rows[0].to_json()))["rate"]["median"] == 1000.0


def test_values_of_all_sizes_are_one_load() -> None:
    large = Cell("put", 64, 4, value_bytes=65_536)
    found = {("256", PUT): [measured(PUT)], ("65,536", large): [measured(large)]}
    assert [row.times_first for row in rows_of(found, lambda cell: cell.operation)] == [1.0, 1.0]


# -- over keys ------------------------------------------------------------------------------------


def row_of(count: int, server_s: float, cell: Cell = PUT) -> keys.Row:
    return keys.Row(count, measured(cell, run(cpu_s={"n1": server_s, LOAD: 0.01})), fill_s=2.0)


def test_what_becomes_dearer_with_many_keys_is_said() -> None:
    rows = [row_of(100_000, 1.0), row_of(10_000_000, 1.6), row_of(10_000_000, 0.1, GET)]
    assert keys.times(rows[1], rows) == pytest.approx(1.6)
    assert keys.times(rows[2], rows) == 1.0, "there are no fewer of gets to compare with"
    (said,) = keys.broken(rows)
    assert "put costs 1.60 times" in said
    assert keys.broken([row_of(100, 1.0), row_of(1_000_000, 9.0)]) == []
    assert keys.broken([row_of(100_000, 1.0), row_of(10_000_000, 1.4)]) == []
    assert dict(zip(keys.HEADER, keys.line(rows[1], rows), strict=True))["puts/s"] == "5,000,000"


# -- over clients ---------------------------------------------------------------------------------


def test_connections_and_memory_are_those_that_came() -> None:
    before = Look({"n1": 1000, "n2": 1000}, {"n1": 10, "n2": 10})
    after = Look({"n1": 401_000, "n2": 301_000}, {"n1": 110, "n2": 210})
    assert growth(before, after) == (200, 4000.0)
    assert growth(before, Look(after.memory_bytes, {"n1": 11, "n2": 12})) == (2, None)


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="this system does not tell")
def test_sockets_are_counted() -> None:
    before = sockets(os.getpid())
    with socket.socket(), socket.socket():
        assert sockets(os.getpid()) == before + 2
    with pytest.raises(Unavailable, match="has ended"):
        sockets(2**22 + 1)


# -- over the log ---------------------------------------------------------------------------------


def test_a_long_restart_is_said_where_the_log_is_large() -> None:
    def row(log_bytes: int, serves_s: float) -> restart.Row:
        return restart.Row(log_bytes, 10, 65_536, 1.0, serves_s, None)

    (said,) = restart.broken([row(2 * GB, 31.0), row(2 * GB, 29.9), row(GB // 2, 99.0)])
    assert "2.0 GB of log a restart took 31.0 s" in said
    shown = dict(zip(restart.HEADER, row(2 * GB, 20.0).cells(), strict=True))
    assert (shown["MB/s of log"], shown["MiB at most"]) == ("100", "-")
    assert row(1, 2.0).to_json()["serves_s"] == 2.0


def test_the_log_is_what_its_segments_take(tmp_path: Path) -> None:
    (tmp_path / "wal").mkdir()
    for name, size in (("0001.wal", 700), ("0002.wal", 300), ("spare", 50)):
        (tmp_path / "wal" / name).write_bytes(bytes(size))
    assert restart.log_bytes_of(tmp_path) == 1000
    assert restart.log_bytes_max(1000) > 2 * 1000


# -- a snapshot -----------------------------------------------------------------------------------


def looks(*bytes_sent: int, total: int = 1000) -> list[Sample]:
    sending = [Sample(1.0 + n, "snapshot", sent, total) for n, sent in enumerate(bytes_sent)]
    end = 1.0 + len(sending)
    return [Sample(0.5, "starting", 0, total), *sending, Sample(end, "log", 0, total)]


def test_an_arrival_is_timed() -> None:
    samples = [*looks(0, 100, 700, 1000, 1000), Sample(8.0, "", 0, 0, is_member=True)]
    found = arrival_of(samples)
    assert (found.size_bytes, found.sent_s, found.in_force_s, found.member_s) == (
        *(1000, 3.0, 6.0, 8.0),
    )
    assert found.bytes_per_s == pytest.approx(1000 / 3)
    assert found.best_bytes_per_s == pytest.approx(450), "two seconds: from 100 to 1000"


def test_what_is_past_was_sent() -> None:
    """The last look may have come before the last bytes."""
    samples = [*looks(500), Sample(3.0, "", 0, 0, is_member=True)]
    found = arrival_of(samples)
    assert (found.sent_s, found.best_bytes_per_s) == (1.5, 1000 / 1.5)


def test_without_a_snapshot_there_is_no_figure() -> None:
    with pytest.raises(KVError, match="without a snapshot"):
        arrival_of([Sample(0.1, "log", 5, 9), Sample(0.2, "", 0, 0, is_member=True)])


def moved(mb_per_s: float, slowdown: float, *, gb: int = 1, is_default: bool = False) -> Any:
    size_bytes = gb * GB
    arrival = SimpleNamespace(size_bytes=size_bytes, bytes_per_s=mb_per_s * 1e6)
    told = {"arrival": arrival, "slowdown": slowdown, "is_default": is_default}
    return cast("snapshot.Row", SimpleNamespace(bound_bytes_per_s=33_000_000, **told))


def test_a_slow_move_and_slow_clients_are_said() -> None:
    assert snapshot.broken([moved(20, 1.9, is_default=True), moved(51, 1.9)]) == []
    assert len(snapshot.broken([moved(20, 2.1, is_default=True), moved(49, 2.1)])) == 3
    assert snapshot.broken([moved(1, 9.0, gb=0)]) == []


# -- what all have --------------------------------------------------------------------------------


def test_without_room_nothing_is_begun(tmp_path: Path) -> None:
    assert needed_bytes(3, 10_000_000, 256) > 3 * 10_000_000 * 256
    assert needed_bytes(3, 10, 10, log_bytes=GB) - needed_bytes(3, 10, 10) == 3 * GB
    assert str(tmp_path) in check_room(1, str(tmp_path))
    with pytest.raises(DiskFull, match="TMPDIR"):
        check_room(10**18, str(tmp_path))


def test_an_outcome_is_text_and_json() -> None:
    outcome = Outcome("title", ("a", "b"), [("1", "2")], [{"a": 1}], ["note"], ["broken"])
    assert outcome.text("machine").splitlines() == [
        *("title", "machine", "", "a  b", "1  2", "", "note"),
    ]
    assert "| a | b |" in outcome.text("", is_markdown=True)
    told = json.loads(json.dumps(outcome.to_json({"cores": 2}, {"runs": 3})))
    assert (told["rows"], told["asked"], told["broken"]) == ([{"a": 1}], {"runs": 3}, ["broken"])


@pytest.mark.parametrize("subject", SUBJECTS)
def test_every_subject_can_be_asked_for(subject: str) -> None:
    told = how(options([subject]))
    assert json.loads(json.dumps(told)).keys() == told.keys()
    assert set(SUBJECTS[subject].options) <= told.keys()


@pytest.mark.parametrize("line", ["", "dance", "shards --points 0", "restart --runs x"])
def test_what_makes_no_sense_is_refused(line: str) -> None:
    with pytest.raises(SystemExit) as ended:
        options(line.split())
    assert ended.value.code == 2
