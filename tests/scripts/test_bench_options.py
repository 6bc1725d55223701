"""What is asked for is measured, and nothing else."""

from __future__ import annotations

import pytest
from bench.cells import CONNECTIONS, IN_FLIGHT, OPERATIONS, VALUE_BYTES, every, grid, selection
from bench.measure import KEYS_DEFAULT, Plan
from bench.measured import Cell
from bench.options import cells_of, options, plan_of


def chosen(line: str) -> list[Cell]:
    return list(cells_of(options(line.split())))


def test_the_selection_shows_every_load_and_every_number() -> None:
    cells = selection()
    assert len(cells) == len(set(cells))
    assert {cell.operation for cell in cells} == set(OPERATIONS)
    assert {cell.in_flight for cell in cells} == set(IN_FLIGHT)
    assert {cell.connections for cell in cells} == set(CONNECTIONS)
    assert {cell.value_bytes for cell in cells} == set(VALUE_BYTES)
    assert {cell.rate is None for cell in cells} == {True, False}
    assert chosen("") == cells


def test_all_is_more_but_nothing_that_cannot_be() -> None:
    assert set(chosen("--full")) == set(every(2000.0))
    assert {cell for cell in selection() if cell.rate is None} < set(every(1.0))
    assert Cell("scan", 1024, 4) not in every(1.0)
    assert Cell("scan", 256, 4, rate=1.0) not in every(1.0)


def test_loads_can_be_chosen_from_the_selection() -> None:
    assert chosen("--only scan,cas") == [c for c in selection() if c.operation in ("scan", "cas")]


def test_numbers_take_the_place_of_the_selection() -> None:
    assert chosen("--in-flight 64") == [Cell("put", 64, 4), Cell("get", 64, 4)]
    assert chosen("--only mix --rate 500 --value-bytes 16") == [Cell("mix", 256, 4, 16, 500.0)]
    assert chosen("--only put --in-flight 16,256,16 --connections 1,16") == [
        Cell("put", *pair) for pair in ((16, 1), (16, 16), (256, 1), (256, 16))
    ]


def test_no_connection_is_idle() -> None:
    assert grid(["get"], [1, 16], [4, 256], [256]) == [Cell("get", 1, 1), Cell("get", 16, 4)]


def test_the_rest_of_the_plan() -> None:
    line = "--nodes 5 --shards 16 --keys 70 --runs 2 --seconds 0.5 --warm-up 0.1 --only get"
    plan = plan_of(options(line.split()))
    assert plan == Plan(plan.cells, 2, 0.5, 0.1, keys=70, nodes=5, shards=16)
    assert plan.keys_of(65_536) == 70


def test_of_large_values_there_are_fewer_keys() -> None:
    plan = Plan(())
    assert plan.keys_of(256) == plan.keys_of(0) == KEYS_DEFAULT
    assert plan.keys_of(16_384) == 4096
    assert plan.keys_of(8 << 20) == 1000


@pytest.mark.parametrize(
    "line",
    [
        *("--only dance", "--only", "--in-flight 0", "--in-flight 1,x", "--rate -1", "--rate inf"),
        *("--seconds 500", "--seconds nan", "--runs 0", "--runs 1.5", "--keys none"),
    ],
)
def test_what_makes_no_sense_is_refused(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        options(line.split())
    assert ended.value.code == 2
    assert line.split()[0] in capsys.readouterr().err
